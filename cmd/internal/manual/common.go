package manual

// Files is the section FILES, which pages share.
const Files = "# FILES\n\n" +
	"| File | Meaning |\n|---|---|\n" +
	"| `/etc/pierfs` | definitions, as **pierfs.toml**(5) has them; `~/.config/pierfs` of a user's own daemon |\n" +
	"| `/srv/pierfs/ENV/NAME` | where connections are mounted; `~/pierfs` of a user |\n" +
	"| `/var/lib/pierfs` | what must survive: what is owed to servers, quarantine, the log of changes, trusted keys; `~/.local/state/pierfs` of a user |\n" +
	"| `/var/cache/pierfs` | what was read; it may be deleted at any time; `~/.cache/pierfs` of a user |\n" +
	"| `/run/pierfs/control.sock` | where the daemon is asked |\n\n"

// Environment is the section ENVIRONMENT, which pages share.
const Environment = "# ENVIRONMENT\n\n" +
	"| Variable | Meaning |\n|---|---|\n" +
	"| `PIERFS_RUNTIME_DIR` | which daemon: its runtime directory |\n" +
	"| `CONFIGURATION_DIRECTORY`, `STATE_DIRECTORY`, `CACHE_DIRECTORY`, `RUNTIME_DIRECTORY` | where things are, as **systemd.exec**(5) hands them to a service |\n" +
	"| `CREDENTIALS_DIRECTORY` | where the daemon finds sources of the kind `credential` |\n\n"
