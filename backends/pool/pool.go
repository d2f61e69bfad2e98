// Package pool lends sessions to whoever has something to ask, and learns how many of them a server bears.
package pool
