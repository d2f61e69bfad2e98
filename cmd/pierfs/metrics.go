package main

import (
	"io"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
)

func (h *hand) metricsCommand() *cobra.Command {
	return &cobra.Command{Use: "metrics", Short: "Print figures for monitoring, as Prometheus reads them", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := control.Metrics.Call(cmd.Context(), h.client(), control.MetricsRequest{Text: !h.asJSON})
			if err != nil {
				return err
			}
			if h.asJSON {
				return h.json(a)
			}
			_, err = io.WriteString(h.out, a.Text)
			return err
		}}
}
