// Package worlds holds `pierfs test` and `pierfs doctor` to their word: in each of many broken worlds, made of real servers and real
// machines, they must name the one cause, and the way out that they tell must lead out.
package worlds
