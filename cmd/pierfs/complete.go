package main

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
	"pierfs/conncfg"
	"pierfs/conncfg/foreign"
)

// completeWithin is how long whoever presses Tab waits for names. Where nobody answers by then nothing is offered.
const completeWithin = 500 * time.Millisecond

// offer is what may stand in a place of a command line. It tells the candidates for what is typed so far, and what the shell does
// besides.
type offer func(h *hand, ctx context.Context, args []string, typed string) ([]string, cobra.ShellCompDirective)

// offersOf are what may stand at each place behind a command, by its name; the last one is repeated if the command takes more.
func offersOf(command string) []offer {
	switch command {
	case "show", "enable", "disable", "copy", "delete", "trust", "vars extract", "queue list", "queue",
		"cache status", "move-to-global", "umount", "mount", "events", "deployments", "log", "trace":
		return []offer{connections}
	case "test", "diff", "edit", "doctor":
		return []offer{connections, localFiles}
	case "ls", "stat", "mkdir", "rm", "mv", "cache drop", "cache warm":
		return []offer{remoteFiles}
	case "get":
		return []offer{remoteFiles, localFiles}
	case "put":
		return []offer{localFiles, remoteFiles}
	case "queue retry", "queue hold", "queue drop":
		return []offer{connections, owedIDs}
	case "queue export":
		return []offer{connections, localFiles, owedIDs}
	case "export":
		return []offer{connections}
	case "vars set", "vars unset", "vars explain":
		return []offer{variables}
	case "env show", "env use":
		return []offer{environments}
	case "history", "rollback":
		return []offer{connections, revisions}
	case "approve", "reject":
		return []offer{proposals}
	case "replace":
		return []offer{connections}
	case "import", "create", "env create":
		return []offer{localFiles}
	case "completion":
		return []offer{shells}
	case "manual":
		return []offer{pages}
	}
	return nil
}

// complete makes every command of root offer what may stand in its places.
func (h *hand) complete(root *cobra.Command) {
	for _, c := range commandsBelow(root) {
		offers := offersOf(strings.TrimPrefix(c.CommandPath(), root.Name()+" "))
		c.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(offers) == 0 || cmd.Args != nil && cmd.Args(cmd, append(slices.Clone(args), typed)) != nil && cmd.Args(cmd, args) == nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return h.ask(cmd, offers[min(len(args), len(offers)-1)], args, typed)
		}
		for _, flag := range []string{"set", "unset"} {
			if c.Flags().Lookup(flag) != nil {
				h.completeFlag(c, flag, fields)
			}
		}
	}
	h.completeFlag(root, "env", environments)
	for _, flag := range []string{"runtime-dir", "config-dir"} {
		_ = root.MarkPersistentFlagDirname(flag) // fails for a flag that is not there; a test completes both
	}
}

func (h *hand) completeFlag(c *cobra.Command, flag string, o offer) {
	_ = c.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		return h.ask(cmd, o, args, typed)
	}) // fails for a flag that is not there; a test completes each
}

// ask returns what o offers, without what a shell could not be given as it is.
func (h *hand) ask(cmd *cobra.Command, o offer, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
	defer cancel()
	all, directive := o(h, ctx, args, typed)
	all = slices.DeleteFunc(all, func(s string) bool {
		return !strings.HasPrefix(s, typed) || terminal.Quote(s) != s || slices.Contains(args, s)
	})
	slices.Sort(all)
	return slices.Compact(all), directive
}

const onlyThese = cobra.ShellCompDirectiveNoFileComp

func shells(*hand, context.Context, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"bash", "zsh", "fish"}, onlyThese
}

func formats(*hand, context.Context, []string, string) ([]string, cobra.ShellCompDirective) {
	return foreign.Formats(), onlyThese
}

func pages(*hand, context.Context, []string, string) ([]string, cobra.ShellCompDirective) {
	return manualPages(), onlyThese
}

func localFiles(*hand, context.Context, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

func connections(h *hand, ctx context.Context, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	if strings.HasPrefix(typed, "/") || strings.HasPrefix(typed, ".") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	a, _ := control.List.Call(ctx, h.client(), control.ListRequest{}) // who cannot be asked knows no names
	var names []string
	for _, c := range a.Connections {
		if !c.AdHoc && (h.environment == "" || c.Environment == h.environment) {
			names = append(names, c.Name)
		}
	}
	return names, onlyThese
}

// remoteFiles offers NAME:/ and, behind that, what is in a directory of the server.
func remoteFiles(h *hand, ctx context.Context, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	const unfinished = onlyThese | cobra.ShellCompDirectiveNoSpace
	name, file, inside := strings.Cut(typed, ":")
	if !inside {
		names, directive := connections(h, ctx, args, typed)
		for i := range names {
			names[i] += ":/"
		}
		return names, directive | cobra.ShellCompDirectiveNoSpace
	}
	dir := path.Dir("/" + strings.TrimPrefix(file, "/") + "x") // of what is typed so far
	var found []string
	for f, err := range control.Ls.Call(ctx, h.client(), control.LsRequest{FileRequest: control.FileRequest{Connection: name, Environment: h.environment, Path: control.Name(dir)}}) {
		if err != nil {
			break
		}
		full := name + ":" + path.Join(dir, string(f.Name))
		if f.Type == "directory" {
			full += "/"
		}
		found = append(found, full)
	}
	return found, unfinished
}

func environments(h *hand, ctx context.Context, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	a, _ := control.List.Call(ctx, h.client(), control.ListRequest{})
	names := make([]string, len(a.Environments))
	for i, e := range a.Environments {
		names[i] = e.Name
	}
	return names, onlyThese
}

func variables(h *hand, ctx context.Context, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, onlyThese // a value
	}
	a, _ := control.Vars.Call(ctx, h.client(), control.VarsRequest{Environment: h.environment})
	names := make([]string, len(a.Variables))
	for i, v := range a.Variables {
		names[i] = v.Name
	}
	return names, onlyThese
}

func owedIDs(h *hand, ctx context.Context, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	for d, err := range control.Queue.Call(ctx, h.client(), control.QueueRequest{Name: args[0], Environment: h.environment}) {
		if err != nil {
			break
		}
		ids = append(ids, strconv.FormatUint(d.ID, 10))
	}
	return ids, onlyThese
}

func revisions(h *hand, ctx context.Context, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	a, _ := control.History.Call(ctx, h.client(), control.HistoryRequest{Subject: args[0]})
	var all []string
	for _, r := range a.Revisions {
		all = append(all, strconv.FormatUint(r.Revision, 10))
	}
	return all, onlyThese
}

// fields offers FIELD= of a definition.
func fields(*hand, context.Context, []string, string) ([]string, cobra.ShellCompDirective) {
	var all []string
	for _, f := range conncfg.FieldNames() {
		all = append(all, f+"=")
	}
	return all, onlyThese | cobra.ShellCompDirectiveNoSpace
}

func (h *hand) completionCommand() *cobra.Command {
	return &cobra.Command{Use: "completion bash|zsh|fish", Short: "Print what makes a shell complete commands and names", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(h.out, true)
			case "zsh":
				return root.GenZshCompletion(h.out)
			case "fish":
				return root.GenFishCompletion(h.out, true)
			}
			return control.Errorf(control.Usage, "%q is no shell that can be helped", args[0]).WithHint("use one of bash, zsh, fish")
		}}
}
