package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
)

// help is what a command says of itself besides its one line: more, if there is more to say, and how it is used. Every
// example is a command line that can be typed as it stands; a test takes each apart.
type help struct {
	more     string
	examples []string
}

// helpOf is the help of every command, by its name.
func helpOf(command string) help {
	switch command {
	case "check":
		return help{"It reads every file below --config-dir, asks no server and no daemon, and prints all that is wrong or odd with\nfile and line. It ends with 78 if anything is an error.",
			[]string{"pierfs check", "pierfs check --config-dir ./etc"}}
	case "pending":
		return help{"What is protected changes only when a second person agrees: each change that waits is shown with who wants it, and what it\nwould change. Of a file that was changed by hand what it held before is in force until then.",
			[]string{"pierfs pending", "pierfs pending --json"}}
	case "approve":
		return help{"Whoever wants the change cannot approve it himself; it takes the role approver. The change is judged once more, as if it was made\nnow, and refused if somebody has changed the same files meanwhile.",
			[]string{"pierfs approve 1f2e3d4c --dry-run", "pierfs approve 1f2e3d4c --reason ticket-7"}}
	case "reject":
		return help{"It takes the role approver, or is done by whoever wants the change.", []string{"pierfs reject 1f2e3d4c --reason ticket-7"}}
	case "replace":
		return help{"The definition of OLD goes, and NEW, which must be there, takes its mountPoint over where it has none of its own: programs that use\nthat directory find NEW in it. It is one change, and one revision.",
			[]string{"pierfs replace partner-old partner --dry-run", "pierfs replace partner-old partner --yes=partner-old"}}
	case "apply":
		return help{"The daemon does the same by itself when files change. Servers that are away are asked again at once. It ends with 0 only\nif everything that it touched is ready; with --offline-ok also where a mount stands and its server cannot be used.\nA connection that owes something to its server stays as it was until that is there, and the status is 75.",
			[]string{"pierfs apply", "pierfs apply --json", "pierfs apply --offline-ok", "pierfs apply --wait"}}
	case "list":
		return help{"Below the table stands what keeps a connection from being ready, and the way out. docs/OPERATING.md explains\nthe words in the column REASON.",
			[]string{"pierfs list", "pierfs list --env Production", "pierfs list --json"}}
	case "status":
		return help{"Owed are files that are written here and not yet at the server; quarantined are those that could not be\nbrought there.",
			[]string{"pierfs status", "pierfs status --json", "pierfs status --watch"}}
	case "events":
		return help{"Without --follow it prints what is known, which is the latest 4096 events of the running daemon, and ends. With --json each line\nis one JSON value. Whoever is too slow loses events and is told how many. Ctrl-C ends it.",
			[]string{"pierfs events --since 1h", "pierfs events --follow --json", "pierfs events partner --follow --new"}}
	case "log":
		return help{"It sets the level at which the daemon logs this connection: debug has a line for each call to the server and each step of a login. It lasts\nuntil the daemon ends, or until it is set to default. Without a level it tells the one that counts.",
			[]string{"pierfs log partner debug", "pierfs log partner default", "pierfs log partner"}}
	case "trace":
		return help{"Commands and replies of FTP, requests and answers of SFTP, and the steps of logins: the latest 100 of each of the latest 8 sessions.\nContent and secrets are not in it. `pierfs test -v` shows the same of a login that fails.",
			[]string{"pierfs trace partner", "pierfs trace partner --last 40"}}
	case "deployments":
		return help{"Each login that failed, each failure to mount, and what became of it at last is one line: how many tries, the step that it ended\nwith, the cause and the milliseconds. They are kept beyond the end of the daemon, at least the latest hundreds of each connection.",
			[]string{"pierfs deployments", "pierfs deployments partner --last 20", "pierfs deployments partner --since 24h --json"}}
	case "show":
		return help{"Each field has the place that it comes from, and beside a variable what it becomes. Passwords are never shown.",
			[]string{"pierfs show partner", "pierfs show partner --env Production"}}
	case "enable":
		return help{"It writes enabled = true into the definition and applies it.", []string{"pierfs enable partner"}}
	case "disable":
		return help{"It writes enabled = false into the definition and applies it: the connection is unmounted in every environment.\nWhile something is owed to its server it is refused with 75.",
			[]string{"pierfs disable partner", "pierfs disable partner --wait"}}
	case "test":
		return help{`It logs in afresh and touches no mount: resolve, dns, tcp, ssh, auth, workingDir, list; for FTP and FTPS
banner, tls, auth, features, workingDir, passive, data, list. What ends in .toml or begins with / or . is a file, a
directory what is mounted on it. Without a running daemon it works as well. Nothing is written to the server but by:

--write-probe   makes a file as an upload does, replaces, reads and removes it
--privileges    tries list, mkdir, rmdir, create, read, append, overwrite, chmod, utimes, rename and delete on names of
                our own, also where the definition is readOnly

Both take away again what they have made, and say so if something may be left.`,
			[]string{"pierfs test partner", "pierfs test ./partner.toml --env Test", "pierfs test - < partner.toml", "pierfs test partner --write-probe --privileges"}}
	case "doctor":
		return help{`For when a test succeeds and it does not work all the same. Of a connection: is its definition sound, is it enabled, its environment
active, its definition applied, is it mounted, does the mount answer, the server, may the user enter, is there room, is anything owed
for long. PATH, which begins with / or ., is any path that a program uses: it is told which connection it belongs to. Of this machine, in each case:
/dev/fuse, fusermount3, user_allow_other, room, the clock, descriptors, mount propagation, stale and hidden mounts.

It asks no server for a login, and works without a running daemon, too. The exit status is that of the first no.`,
			[]string{"pierfs doctor", "pierfs doctor partner", "pierfs doctor /srv/pierfs/Production/partner/in --user www-data", "pierfs doctor partner --json"}}
	case "trust":
		return help{`The server is asked for its host key or certificate first; one with another fingerprint is refused. What was trusted before
is forgotten. Without a fingerprint whatever it shows is trusted, but only if nothing is trusted of it yet. Get the fingerprint
from the server's operator: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub, or for FTPS
openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE`,
			[]string{"pierfs trust partner SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU", "pierfs trust partner"}}
	case "mount":
		return help{`mount NAME mounts a defined connection that was unmounted by hand or has failed, and asks a server that is away again.
A mount stands also while its server is away or refuses the login; the exit status tells the cause, unless --offline-ok is given.

mount URL DIR mounts a server now, without any definition, until the daemon ends. A daemon is started if none runs.
The URL begins with sftp://, ftp:// (in the clear), ftpes:// (explicit FTPS, port 21) or ftps:// (implicit FTPS, port 990). Its
path is the absolute working directory; /~/dir is relative to the login directory. The password comes from
--password-file, from $` + passwordVariable + `, or is asked for; where nobody can be asked, a login over FTP without one needs
--no-password. It succeeds only if the server was reached.`,
			[]string{"pierfs mount partner", "pierfs mount sftp://user@host/dir /mnt/partner --trust-new",
				"pierfs mount sftp://user@host:2222/~/in ./in -o readOnly,retryCount=5 --password-file secret",
				"pierfs mount ftpes://user@host/outbound /mnt/partner --ca partner-ca.pem",
				"pierfs mount ftps://user@host/ /mnt/partner --trust-cert SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"}}
	case "umount":
		return help{"A defined connection stays unmounted until `pierfs mount NAME` or the daemon's next start; `pierfs disable NAME` is\nfor good. It is refused with 75 while programs have files open, and while something is owed to the server.",
			[]string{"pierfs umount partner", "pierfs umount partner --wait", "pierfs umount /mnt/partner --force"}}
	case "ls":
		return help{"Without a path it is the working directory. -R lists all below it, a line each as the server tells it. A filter chooses files by their\nnames, capital letters or not, unless --case-sensitive.", []string{"pierfs ls -R partner:/orders", "pierfs ls partner:/in --filter '*.csv' --filter-type WILDCARD --json", "pierfs ls partner", "pierfs ls partner:/orders", "pierfs ls /mnt/partner:/orders --json"}}
	case "stat":
		return help{"", []string{"pierfs stat partner:/orders/2026-11.csv"}}
	case "get":
		return help{`LOCAL is written beside its place and renamed when all of it is there. Without LOCAL it has the same name here. --resume goes on
with what was cut, if the server's file is still the same. --verify reads both sides again before the file gets its name.

-r brings what a directory holds into the directory LOCAL. What is here with the size and time of the server's is left alone, so the same
command goes on where it was interrupted. --new-only brings what it has not brought before, for a timer. --output packs all files that fit
a filter: raw, one behind the other; JSON_BASE64; or ZIP.`,
			[]string{"pierfs get -r --verify partner:/orders ./orders", "pierfs get --new-only partner:/out ./in --filter .csv --filter-type ENDS_WITH",
				"pierfs get partner:/big.iso --resume", "pierfs get partner:/out --filter inv -o ZIP invoices.zip", "pierfs get partner:/orders/2026-11.csv", "pierfs get partner:/orders/2026-11.csv /tmp/", "pierfs get partner:/log - | tail"}}
	case "put":
		return help{`It returns when the server has the whole file under its name. A file that changes while it is read is not sent at all. --verify has
the server's file read again and compared.

-r brings what the directory LOCAL holds into the directory at the server. What was put before, and is since the same on both sides, is left
alone: the same command goes on where it was interrupted.`,
			[]string{"pierfs put -r ./report partner:/inbox/report --verify", "pierfs put report.csv partner:/inbox/", "date | pierfs put - partner:/inbox/date", "pierfs put -n report.csv partner:/inbox/today.csv"}}
	case "rm":
		return help{"Links are removed, never followed. What cannot be removed is told, and the rest goes all the same.", []string{"pierfs rm partner:/old.csv", "pierfs rm -r --dry-run partner:/old", "pierfs rm -r partner:/old"}}
	case "mv":
		return help{"What has the new name is replaced, unless -n. If it is a directory the file goes into it.",
			[]string{"pierfs mv partner:/in/a.csv partner:/done/", "pierfs mv -n partner:/a partner:/b", "pierfs mv --dry-run partner:/a partner:/b"}}
	case "mkdir":
		return help{"", []string{"pierfs mkdir partner:/inbox", "pierfs mkdir -p partner:/2026/11"}}
	case "queue":
		return help{"With commit = \"background\" a file is acknowledged when it is durable here, and sent behind. What was not sent yet stands here,\nthe oldest first, with the reason. --check is for monitoring: it ends with 0 if all is well, 75 if something waits for longer\nthan --age or more than --size waits, 74 if something is held or in quarantine until a person decides.",
			[]string{"pierfs queue", "pierfs queue partner", "pierfs queue --check --age 1h --size 10GiB", "pierfs queue --check --json"}}
	case "queue list":
		return help{"", []string{"pierfs queue list", "pierfs queue list partner --json"}}
	case "queue retry":
		return help{"Without an ID it is all that the connection owes. Pauses end at once, and what was held is sent.",
			[]string{"pierfs queue retry partner", "pierfs queue retry partner 17 18"}}
	case "queue hold":
		return help{"Without an ID it is all that the connection owes now. It stays held when the daemon starts anew.",
			[]string{"pierfs queue hold partner 17"}}
	case "queue drop":
		return help{"A program was told that it is written, so the content is kept: in quarantine, and the answer says where. Programs see what the\nserver has from then on.",
			[]string{"pierfs queue drop partner --backup 17", "pierfs queue drop partner --backup --all"}}
	case "queue export":
		return help{"Each content is written below DIR under its path, where nothing bears that name; without an ID all of them. They stay owed.",
			[]string{"pierfs queue export partner /tmp/owed", "pierfs queue export partner /tmp/owed 17"}}
	case "metrics":
		return help{"Each figure has the labels connection and environment; docs/CLI.md lists them. For the textfile collector of node_exporter\nwrite them beside the file and rename.",
			[]string{"pierfs metrics", "pierfs metrics --json"}}
	case "cache":
		return help{"Content that was read is kept below the cache directory, bounded by cacheSize of pierfs.toml, and read again from there\nas long as the server tells the same size and time. Nothing that is owed lies there.",
			[]string{"pierfs cache status", "pierfs cache warm partner:/orders", "pierfs cache drop partner"}}
	case "cache status":
		return help{"Counted are reads since the connection was mounted. What the kernel answers by itself is not among them.",
			[]string{"pierfs cache status", "pierfs cache status partner --json"}}
	case "cache drop":
		return help{"The next reader asks the server. It is for a content that changed at the server and kept its size and time; nothing else\nneeds it.",
			[]string{"pierfs cache drop partner", "pierfs cache drop partner:/orders"}}
	case "cache warm":
		return help{"Every file below the path is read into the cache, and links are not followed. Ctrl-C stops it, and what is there by then\nstays. It ends with 74 if something could not be read.",
			[]string{"pierfs cache warm partner:/orders", "pierfs cache warm /srv/pierfs/Production/partner/orders", "pierfs cache warm partner:/reference/rates.csv --json"}}
	case "create":
		return help{"The definition comes from a file, from standard input, from --set or from both; `pierfs help edit` says how fields are written.\nA password is never an argument: --ask-password asks for it, --password-file reads it, and it is stored encrypted; or write\n${variable}. What would not work is refused with the field, the value and the way out, and nothing is written.",
			[]string{"pierfs create partner -s protocol=SFTP -s host=files.example -s username=batch -s workingDir=/in -s password=${partner.password}",
				"pierfs create shop/orders orders.toml --ask-password", "pierfs create partner - --disabled --dry-run < partner.toml"}}
	case "edit":
		return help{"--set changes single values and leaves every other byte of the file, comments too; FILE or - takes the place of the whole; without\neither the definition is opened in $VISUAL or $EDITOR. With --env, or as ENV.FIELD, a value is for that environment alone.\nBefore anything is written, it is told whom the change affects; what owes something to its server is not changed, unless --force.",
			[]string{"pierfs edit partner --set port=2222 --set Test.host=test.example", "pierfs edit partner --unset Test.host --dry-run", "pierfs edit partner --password-file secret --reason rotated", "pierfs edit partner"}}
	case "copy":
		return help{"Comments and order are copied too.", []string{"pierfs copy partner partner2"}}
	case "move-to-global":
		return help{"The file is moved as it is, and mounted at its new place. A global connection of the name is never replaced.", []string{"pierfs move-to-global shop/orders"}}
	case "delete":
		return help{"The name must be typed once more, or given with --yes. While programs have files open there, or something is owed to the server, it is\nrefused, unless --force. An export of it is written into the working directory first; `pierfs rollback` brings it back with its secrets.",
			[]string{"pierfs delete partner", "pierfs delete partner --yes=partner", "pierfs delete partner --dry-run"}}
	case "diff":
		return help{"It ends with 0 if they mean the same, and with 1 if not. Of secrets it tells only that they differ.", []string{"pierfs diff partner partner.toml", "pierfs diff partner - < partner.toml"}}
	case "name":
		return help{"", []string{"pierfs name check partner"}}
	case "name check":
		return help{"It needs no daemon and creates nothing.", []string{"pierfs name check partner", "pierfs name check shop/orders --json"}}
	case "vars":
		return help{"A variable stands for ${name} in definitions. Each environment may have its own; the global ones count where it has none.",
			[]string{"pierfs vars list", "pierfs vars set shop.host files.example --env Test", "pierfs vars explain shop.host"}}
	case "vars list":
		return help{"Values of secrets are never shown.", []string{"pierfs vars list", "pierfs vars list --env Production --json"}}
	case "vars set":
		return help{"Without --env it is a global one. A secret is asked for or read from a file, and stored encrypted. What was made a secret stays one.\nIf connections need it, they are listed and the name must be typed once more, or given with --yes.",
			[]string{"pierfs vars set shop.host files.example --env Test", "pierfs vars set shop.password --secret --env Production", "pierfs vars set shop.password --secret --value-file - --yes=shop.password < secret"}}
	case "vars unset":
		return help{"It is refused where a connection could not be used any more.", []string{"pierfs vars unset shop.host --env Test"}}
	case "vars explain":
		return help{"The first one that it lists for an environment is the one that counts there.", []string{"pierfs vars explain shop.host", "pierfs vars explain shop.host --env Test"}}
	case "vars extract":
		return help{"A password becomes the secret variable CONNECTION.password, in the environment that it was written for; other secrets are\nencrypted where they stand.", []string{"pierfs vars extract partner", "pierfs vars extract partner --dry-run"}}
	case "env":
		return help{"The connections of all active environments are mounted on this machine.", []string{"pierfs env list", "pierfs env use Test", "pierfs env create Acceptance"}}
	case "env list":
		return help{"", []string{"pierfs env list", "pierfs env list --json"}}
	case "env show":
		return help{"Global variables that it does not have itself are among them.", []string{"pierfs env show Production"}}
	case "env use":
		return help{"It writes activeEnvironments into pierfs.toml. Mounts of an environment that is left are taken down, and refused while programs have\nfiles open there or something is owed to a server, unless --force.", []string{"pierfs env use Test", "pierfs env use Production Test --dry-run"}}
	case "env create":
		return help{"", []string{"pierfs env create Acceptance"}}
	case "history":
		return help{"Of a connection, of variables.toml, pierfs.toml or environments/ENV.toml, or of all. Changes by hand are there too.", []string{"pierfs history partner", "pierfs history variables.toml --json", "pierfs history --last 10"}}
	case "rollback":
		return help{"The file becomes what it was, also one that was deleted since; the log grows by one entry. REVISION is one that `pierfs history` lists.",
			[]string{"pierfs rollback partner 12 --dry-run", "pierfs rollback variables.toml 7 --reason mistake"}}
	case "audit":
		return help{"", []string{"pierfs audit verify"}}
	case "audit verify":
		return help{"Each entry has the hash of the one before it. Whoever can write the log could write all of it anew: keep the last hash elsewhere now\nand then, and give it with --head. It ends with 74 if something is wrong.",
			[]string{"pierfs audit verify", "pierfs audit verify --json"}}
	case "export":
		return help{"The file is named after the date and the connection. The same definitions are the same bytes. Passwords are not in it, whatever the\ndefinition holds; what the connections need besides is listed by name. A name that does not exist fails the whole call.\nWith a passphrase the whole of it is encrypted, names too, in the format of age(1).",
			[]string{"pierfs export partner", "pierfs export partner shop/orders --output both.zip", "pierfs export --output - | sha256sum", "pierfs export partner --passphrase-file secret"}}
	case "import":
		return help{"Before anything is written it is asked: is the format valid, are the names free, is there what the definitions need? If one answer\nis no, nothing is imported. Secrets do not travel: what must be given again is listed, and the status is 78 then. Keys, programs,\nfiles of secrets and mountPoints outside the mount root are never taken over. What was imported is mounted by `pierfs apply`.\n--from reads what another program keeps: rclone.conf, ssh_config, FileZilla's sitemanager.xml, and the lines of fstab for sshfs and\ncurlftpfs. Passwords that it holds are stored encrypted; what means something else here is told.",
			[]string{"pierfs import partner.zip --dry-run", "pierfs import partner.zip --rename partner2 --map-env Test=Production", "pierfs import connections.json --overwrite --exclude-missing", "pierfs import export.zip.age --ask-passphrase",
				"pierfs import --from rclone rclone.conf --dry-run", "pierfs import --from ssh-config config --only bank,shop"}}
	case "completion":
		return help{"Names of connections, environments, variables and files at servers are asked for as they stand, of a daemon that answers within half\na second; else none are offered. The package installs these scripts; by hand, for this shell alone: source <(pierfs completion bash)",
			[]string{"pierfs completion bash", "pierfs completion zsh", "pierfs completion fish"}}
	case "manual":
		return help{"Without PAGE it is pierfs.1. They say the same as --help and docs/DEFINITIONS.md, of which they are made.",
			[]string{"pierfs manual", "pierfs manual pierfs.toml.5", "pierfs manual mount.pierfs.8"}}
	case "version":
		return help{"", []string{"pierfs version"}}
	}
	return help{}
}

// explain puts the help of every command into it.
func explain(root *cobra.Command) {
	for _, c := range commandsBelow(root) {
		h := helpOf(strings.TrimPrefix(c.CommandPath(), root.Name()+" "))
		c.Long = strings.TrimSpace(c.Short + ".\n\n" + h.more)
		c.Example = "  " + strings.Join(h.examples, "\n  ")
	}
	root.AddCommand(&cobra.Command{Use: "statuses", Short: "What exit statuses and the codes of failures mean", Long: statuses()})
	root.SetUsageTemplate(root.UsageTemplate() + "\nExit status: 0 if it was done, else as `pierfs help statuses` lists.\n")
}

// commandsBelow returns the commands of c, and theirs.
func commandsBelow(c *cobra.Command) (all []*cobra.Command) {
	for _, below := range c.Commands() {
		all = append(append(all, below), commandsBelow(below)...)
	}
	return all
}

// statuses lists the codes of failures by the exit status that they end with.
func statuses() string {
	var b strings.Builder
	b.WriteString("Exit statuses are those of sysexits(3). With --json a failure tells its code, which is stable; docs/CLI.md says more.\n\n")
	b.WriteString("   0  it was done\n")
	byStatus := map[int][]string{}
	for _, code := range control.Codes() {
		byStatus[code.Exit()] = append(byStatus[code.Exit()], string(code))
	}
	for status := range 256 {
		if codes := byStatus[status]; len(codes) > 0 {
			fmt.Fprintf(&b, "  %d  %s\n", status, strings.Join(slices.Sorted(slices.Values(codes)), ", "))
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}
