package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
)

func (h *hand) metricsCommand() *cobra.Command {
	return &cobra.Command{Use: "metrics", Short: "Print figures for monitoring, as Prometheus reads them", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := control.Metrics.Call(cmd.Context(), h.client(), control.MetricsRequest{})
			if err != nil {
				return err
			}
			if h.asJSON {
				return h.json(a)
			}
			for _, m := range a.Metrics {
				if err := printMetric(h.out, m); err != nil {
					return err
				}
			}
			return nil
		}}
}

// printMetric writes m in the text format 0.0.4 of Prometheus. A metric without samples is left out.
func printMetric(out io.Writer, m control.Metric) error {
	if len(m.Samples) == 0 {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", m.Name, m.Help, m.Name, m.Type)
	for _, s := range m.Samples {
		fmt.Fprintf(&b, "%s{connection=\"%s\",environment=\"%s\"} %s\n", m.Name, label(s.Connection), label(s.Environment),
			strconv.FormatFloat(s.Value, 'g', -1, 64))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// label escapes a label's value.
func label(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s)
}
