package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
)

func (h *hand) cacheCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cache", Short: "What is kept here of what was read", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usageError{fmt.Errorf("there is no command \"cache %s\"; there are status, drop and warm", args[0])}
		}}
	cmd.AddCommand(h.cacheStatusCommand(), h.cacheDropCommand(), h.cacheWarmCommand())
	return cmd
}

// below reads NAME, NAME:/path, or a path of this machine that leads into a mount.
func (h *hand) below(ctx context.Context, arg string) (control.FileRequest, error) {
	switch {
	case strings.Contains(arg, ":"):
		return h.at(arg)
	case !strings.HasPrefix(arg, "/"):
		return h.at(arg + ":/")
	}
	all, err := control.List.Call(ctx, h.client(), control.ListRequest{})
	if err != nil {
		return control.FileRequest{}, err
	}
	arg = filepath.Clean(arg)
	q := control.FileRequest{Connection: arg} // which the daemon then knows nothing of
	for _, c := range all.Connections {
		if c.Dir == "" || len(q.Path) > 0 && len(c.Dir) <= len(q.Connection) {
			continue
		}
		if rest, ok := strings.CutPrefix(arg+"/", strings.TrimSuffix(c.Dir, "/")+"/"); ok {
			q.Connection, q.Path = c.Dir, control.Name("/"+rest)
		}
	}
	return q, nil
}

func (h *hand) cacheStatusCommand() *cobra.Command {
	return &cobra.Command{Use: "status [NAME]", Short: "Show what is kept, and how much was read from there", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.CacheRequest{Environment: h.environment}
			if len(args) == 1 {
				q.Name = args[0]
			}
			a, err := control.CacheStatus.Call(cmd.Context(), h.client(), q)
			if err != nil {
				return err
			}
			if h.asJSON {
				return h.json(a)
			}
			return h.printCache(a)
		}}
}

func (h *hand) printCache(a control.CacheAnswer) error {
	if a.Dir == "" {
		fmt.Fprintln(h.out, "nothing that is read is kept; the daemon's log tells why")
	} else {
		fmt.Fprintf(h.out, "%s of %s in %s below %s\n", inBytes(a.Bytes), inBytes(a.Size), counted(a.Files, "1 file", "files"), terminal.Quote(a.Dir))
	}
	if len(a.Connections) == 0 {
		return nil
	}
	rows := make([][]string, len(a.Connections))
	for i, c := range a.Connections {
		environment := c.Environment
		if environment == "" {
			environment = "-"
		}
		rows[i] = []string{c.Name, environment, strconv.Itoa(c.Files), inBytes(c.Bytes), share(c.Hits, c.Misses), inBytes(c.FromCache),
			inBytes(c.FromServer), inBytes(c.Prefetched), inBytes(c.Wasted)}
	}
	fmt.Fprintln(h.out)
	return table(h.out, []string{"NAME", "ENVIRONMENT", "FILES", "KEPT", "HITS", "FROM CACHE", "FROM SERVER", "PREFETCHED", "WASTED"}, rows)
}

// share is how many of all were hits.
func share(hits, misses int64) string {
	if hits+misses == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d (%d%%)", hits, hits+misses, 100*hits/(hits+misses))
}

// inBytes is n as people read it.
func inBytes(n int64) string {
	units, f := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}, float64(n)
	for f >= 1024 && len(units) > 1 {
		f, units = f/1024, units[1:]
	}
	if units[0] == "B" || f >= 100 {
		return fmt.Sprintf("%.0f %s", f, units[0])
	}
	return fmt.Sprintf("%.1f %s", f, units[0])
}

func (h *hand) cacheDropCommand() *cobra.Command {
	var q control.CacheChange
	cmd := &cobra.Command{Use: "drop NAME[:/path]|PATH", Short: "Forget what is kept of a connection, a directory or a file", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.FileRequest, err = h.below(cmd.Context(), args[0]); err != nil {
				return err
			}
			d, err := control.CacheDrop.Call(cmd.Context(), h.client(), q)
			if err != nil {
				return err
			}
			if h.asJSON {
				return h.json(d)
			}
			did := "dropped"
			if q.DryRun {
				did = "would be dropped:"
			}
			_, err = fmt.Fprintf(h.out, "%s %s, %s\n", did, counted(d.Files, "1 file", "files"), inBytes(d.Bytes))
			return err
		}}
	cmd.Flags().BoolVarP(&q.DryRun, "dry-run", "n", false, "count what would be dropped, and drop nothing")
	return cmd
}

func (h *hand) cacheWarmCommand() *cobra.Command {
	var q control.CacheChange
	cmd := &cobra.Command{Use: "warm NAME[:/path]|PATH", Short: "Fetch a file, or all below a directory, ahead", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.FileRequest, err = h.below(cmd.Context(), args[0]); err != nil {
				return err
			}
			var last control.Warming
			show, end := h.warming("warm " + args[0])
			for w, err := range control.CacheWarm.Call(cmd.Context(), h.client(), q) {
				if err != nil {
					end()
					return err
				}
				last = w
				show(w)
			}
			end()
			switch {
			case h.asJSON:
				err = h.json(last)
			case q.DryRun:
				_, err = fmt.Fprintf(h.out, "would be fetched: %s, %s; %d more are here\n", counted(last.FoundFiles-last.Here, "1 file", "files"), inBytes(last.FoundBytes-last.Bytes), last.Here)
			default:
				_, err = fmt.Fprintf(h.out, "%s here, %s; %d were before\n", counted(last.Files, "1 file is", "files are"), inBytes(last.Bytes), last.Here)
			}
			if err == nil && last.Failed > 0 {
				if !h.asJSON {
					fmt.Fprintf(h.err, "pierfs: %s could not be read: %s\n", counted(last.Failed, "1 file or directory", "files or directories"), terminal.Quote(last.Reason))
				}
				return silent{control.Failed}
			}
			return err
		}}
	cmd.Flags().BoolVarP(&q.DryRun, "dry-run", "n", false, "list, count what would be fetched, and fetch nothing")
	return cmd
}

// lineEvery is how often progress is told in lines, where no person watches a bar.
const lineEvery = 5 * time.Second

// warming returns what shows progress: a bar for a person, a line now and then for a log, nothing for a script.
func (h *hand) warming(what string) (show func(control.Warming), end func()) {
	switch {
	case h.asJSON:
		return func(control.Warming) {}, func() {}
	case !isTerminal(h.err):
		told := time.Now()
		return func(w control.Warming) {
			if time.Since(told) >= lineEvery {
				told = time.Now()
				fmt.Fprintf(h.err, "%s: %d of %d files, %s of %s\n", terminal.Quote(what), w.Files, w.FoundFiles, inBytes(w.Bytes), inBytes(w.FoundBytes))
			}
		}, func() {}
	}
	bar := h.bar(what, 1)
	return func(w control.Warming) {
		bar.ChangeMax64(max(w.FoundBytes, 1)) // it grows while directories are listed
		bar.Describe(terminal.Quote(fmt.Sprintf("%s: %d of %d files", what, w.Files, w.FoundFiles)))
		_ = bar.Set64(min(w.Bytes, w.FoundBytes)) // a bar that cannot be drawn is no reason to fail
	}, func() { _ = errors.Join(bar.Clear(), bar.Exit()) }
}

// bar returns a bar for a person who watches size bytes move.
func (h *hand) bar(what string, size int64) *progressbar.ProgressBar {
	return progressbar.NewOptions64(size,
		progressbar.OptionSetWriter(h.err),
		progressbar.OptionSetDescription(terminal.Quote(what)),
		progressbar.OptionShowBytes(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetWidth(30),
	)
}
