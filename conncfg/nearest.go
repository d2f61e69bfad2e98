package conncfg

import (
	"iter"
	"strings"
)

// nearest returns the candidate that was most likely meant by word, or "". Upper and lower case and underscores count for
// nothing, so that working_dir finds workingDir.
func nearest(word string, candidates iter.Seq[string]) string {
	word = folded(word)
	best, found := max(1, len(word)/3)+1, ""
	if len(word) > 64 {
		return ""
	}
	for candidate := range candidates {
		if d := distance(word, folded(candidate)); d < best || d == best && found != "" && candidate < found {
			best, found = d, candidate
		}
	}
	return found
}

func folded(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// distance is the number of bytes to insert, delete, change or swap with their neighbour to make b of a.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// didYouMean is the hint for an unknown word, or otherwise.
func didYouMean(word string, candidates iter.Seq[string], otherwise string) string {
	if n := nearest(word, candidates); n != "" {
		return "did you mean " + n + "?"
	}
	return otherwise
}
