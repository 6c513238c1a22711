package main

import (
	"iter"

	"github.com/urfave/cli/v2"
)

// nearest returns the word that s is most likely a slip of, or "" where none is near.
func nearest(s string, words []string) string {
	best, near := "", min(3, 1+len(s)/3)
	for _, w := range words {
		if d := distance(s, w); d < near {
			best, near = w, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace or swap with their neighbour that makes b out of a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// allCommands yields commands and their subcommands.
func allCommands(cmds []*cli.Command) iter.Seq[*cli.Command] {
	return func(yield func(*cli.Command) bool) {
		for _, c := range cmds {
			if !yield(c) {
				return
			}
			for sub := range allCommands(c.Subcommands) {
				if !yield(sub) {
					return
				}
			}
		}
	}
}
