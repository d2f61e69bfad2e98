package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
)

// examined is what doctor prints as JSON.
type examined struct {
	OK bool `json:"ok"`
	control.DoctorAnswer
}

func (h *hand) doctorCommand() *cobra.Command {
	var user string
	cmd := &cobra.Command{Use: "doctor [NAME|PATH]", Short: "Find out why it does not work though a test succeeds", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.DoctorRequest{Environment: h.environment, User: user}
			if len(args) > 0 {
				q.Name = args[0]
			}
			if strings.HasPrefix(q.Name, ".") {
				path, err := filepath.Abs(q.Name)
				if err != nil {
					return err
				}
				q.Name = path
			}
			c, done, err := h.served(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			a, err := control.Doctor.Call(cmd.Context(), c, q)
			if err != nil {
				return err
			}
			return h.printExamined(a)
		}}
	cmd.Flags().StringVar(&user, "user", "", "who is to use it; else the caller")
	return cmd
}

func (h *hand) printExamined(a control.DoctorAnswer) error {
	failed := a.Failed()
	if h.asJSON {
		if err := h.json(examined{failed == "", a}); err != nil {
			return err
		}
	} else if err := h.printLooks(a.Checks); err != nil {
		return err
	}
	if failed != "" {
		return silent{failed}
	}
	return nil
}

func (h *hand) printLooks(checks []control.Examined) error {
	of := ""
	for _, c := range checks {
		if c.Of != of {
			of = c.Of
			fmt.Fprintf(h.out, "%s\n", terminal.Quote(of))
		}
		word := "yes"
		switch {
		case c.Unknown:
			word = "?"
		case c.Advice && !c.OK:
			word = "worse"
		case !c.OK:
			word = "NO"
		}
		fmt.Fprintf(h.out, "  %-5s %-18s %s\n", word, terminal.Quote(c.Check), terminal.Quote(c.Detail))
		if !c.OK && c.Fix != "" {
			if _, err := fmt.Fprintf(h.out, "        fix: %s\n", terminal.Quote(c.Fix)); err != nil {
				return err
			}
		}
	}
	return nil
}
