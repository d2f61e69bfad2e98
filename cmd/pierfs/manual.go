package main

import (
	"strings"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/manual"
	"pierfs/cmd/internal/version"
	"pierfs/docs"
)

// manualPages are the pages that this program prints, by their names; pierfsd prints its own.
func manualPages() []string { return []string{"pierfs.1", "pierfs.toml.5", mountHelper + ".8"} }

func (h *hand) manualCommand() *cobra.Command {
	var date string
	cmd := &cobra.Command{Use: "manual [PAGE]", Short: "Print a manual page, for man(1)", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "pierfs.1"
			if len(args) > 0 {
				name = args[0]
			}
			text := h.manualPage(cmd.Root(), name, date)
			if text == nil {
				return control.Errorf(control.NotFound, "there is no page %q", name).WithHint("there are %s; `pierfsd manual` prints pierfsd.8", strings.Join(manualPages(), ", "))
			}
			_, err := h.out.Write(text)
			return err
		}}
	cmd.Flags().StringVar(&date, "date", "", "what the page tells as its date")
	return cmd
}

// manualPage returns a page; nil if there is none of that name.
func (h *hand) manualPage(root *cobra.Command, name, date string) []byte {
	p := manual.Page{Version: version.Version(), Date: date}
	switch name {
	case "pierfs.1":
		p.Name, p.Section, p.Short = "pierfs", 1, root.Short
		p.Sections = "# EXIT STATUS\n\n" + asMarkdown(statuses()) + manual.Files + manual.Environment
		p.SeeAlso = []string{"pierfs.toml(5)", "mount.pierfs(8)", "pierfsd(8)"}
		return p.Commands(root)
	case "pierfs.toml.5":
		p.Name, p.Section, p.Short = "pierfs.toml", 5, "definitions of connections, environments and variables for pierfs"
		p.SeeAlso = []string{"pierfs(1)", "mount.pierfs(8)", "pierfsd(8)"}
		return p.Text(docs.Definitions)
	case mountHelper + ".8":
		c := h.mountHelperCommand()
		p.Name, p.Section, p.Short = mountHelper, 8, c.Short
		p.Sections = helperOptionsPage
		p.SeeAlso = []string{"pierfs(1)", "pierfs.toml(5)", "pierfsd(8)", "mount(8)", "fstab(5)", "systemd.mount(5)"}
		return p.Commands(c)
	}
	return nil
}

// asMarkdown keeps a text that is laid out for a terminal as it is.
func asMarkdown(text string) string {
	first, rest, _ := strings.Cut(text, "\n\n")
	return first + "\n\n```\n" + rest + "\n```\n\n"
}

const helperOptionsPage = "# OPTIONS OF MOUNTS\n\n" +
	"| Option | Meaning |\n|---|---|\n" +
	"| `env=ENV` | the environment; the first active one without it. It must be active on this machine |\n" +
	"| `ro` | refuse to mount what may be written to: whether it may stands in the definition (`readOnly`), and a mount does not change that. Of a URL it makes the mount so |\n" +
	"| `timeout=DURATION` | how long to wait for a daemon that is starting and for the mount: 60s |\n" +
	"| `runtimeDir=DIR` | which daemon; else `$PIERFS_RUNTIME_DIR`, else /run/pierfs |\n" +
	"| `passwordFile=FILE` | of a URL: the password is this file's first line |\n" +
	"| `hostKey=FINGERPRINT` | of a URL: the only host key to accept |\n" +
	"| `FIELD=VALUE` | of a URL: a field as **pierfs.toml**(5) has it |\n\n" +
	"Options that begin with `x-`, and `_netdev`, `nofail`, `noauto`, `user`, `users` and the like, are for others and passed over. " +
	"`nosuid` and `nodev` hold for every mount. Any other option is an error, unless -s is given.\n\n" +
	"# FSTAB\n\n" +
	"```\nbank  /srv/pierfs/Production/bank  pierfs  env=Production,_netdev,nofail,x-systemd.requires=pierfsd.service  0 0\n```\n\n" +
	"The daemon mounts every connection that is enabled by itself; such a line is for units that shall wait for one mount, with `RequiresMountsFor=`. " +
	"**umount**(8) asks the daemon, too: while programs have files open, or something is owed to the server, it fails.\n\n" +
	"# EXIT STATUS\n\n" +
	"| Status | Meaning |\n|---|---|\n" +
	"| 0 | the mount stands |\n| 1 | the options make no sense, or are not allowed to this caller |\n| 4 | a fault of our own |\n| 8 | interrupted |\n| 32 | it is not mounted |\n"
