package control

// WayOut is what to do about a failure of which nothing better is known than its code.
func (c Code) WayOut() string {
	switch c {
	case Usage:
		return "`pierfs help` lists the commands, and --help shows how each is written"
	case BadData:
		return "look at what was handed over; nothing was changed: `pierfs check` judges definitions"
	case NotFound:
		return "check the name; `pierfs ls NAME:/` lists what a server has"
	case UnknownConnection:
		return "`pierfs list` shows the connections"
	case UnknownEnvironment:
		return "`pierfs env list` shows the environments"
	case NotRunning:
		return "start it (`systemctl start pierfsd`, or `pierfsd`), or name its directory with --runtime-dir or $PIERFS_RUNTIME_DIR"
	case Disabled:
		return "`pierfs enable NAME` switches it on"
	case NotMounted:
		return "`pierfs list` says why; `pierfs mount NAME` tries again"
	case Unreachable, ProtocolError:
		return "`pierfs test NAME` shows the step that fails, and what to change"
	case System:
		return "`pierfs doctor` looks at this machine"
	case Exists:
		return "choose another name, or take away what bears it: `pierfs ls NAME:/` shows it, `pierfs rm` removes it"
	case NotEmpty:
		return "`pierfs rm -r` removes a directory with all that is in it"
	case NoSpace:
		return "make room there, and try again: `pierfs doctor` shows how much there is here"
	case CannotCreate:
		return "look at the directory's owner, mode and free space: `pierfs doctor DIRECTORY`"
	case Failed:
		return "`pierfs trace NAME` shows what was said to the server; `pierfs test NAME` tries the connection step by step"
	case Cut:
		return "the same command tries it again; `pierfs events --since 5m` tells what happened"
	case Stuck:
		return "`pierfs queue NAME` shows what waits: retry it, or drop it with a backup"
	case Offline:
		return "it is looked for by itself; `pierfs list` has the reason"
	case Timeout:
		return "try again; `pierfs test NAME` shows what takes how long"
	case Busy:
		return "close what is open there, or wait; `fuser -vm DIRECTORY` shows who has it"
	case StillOwed:
		return "`pierfs queue` shows what is owed; it is sent by itself, and --wait waits for it"
	case Stopping:
		return "try again in a moment: `pierfs status` tells when the next one is there"
	case NotAllowed:
		return "run it as root or as the daemon's own user, or have a role given that may do it"
	case PermissionDenied:
		return "look at owner and mode: of a file here `ls -l`, of one at a server `pierfs stat NAME:/path`"
	case ReadOnly:
		return "`pierfs show NAME` tells where readOnly comes from"
	case AuthFailed:
		return "check username and password or key (`pierfs test NAME`); when it is mended: `pierfs mount NAME`"
	case HostKeyUnknown, HostKeyChanged, CertUnknown, CertChanged, CertInvalid:
		return "compare the fingerprint with what the server's operator tells, then: pierfs trust NAME FINGERPRINT"
	case ConfigInvalid:
		return "`pierfs check` lists what is wrong, with file and line"
	}
	return "the daemon's log has more; it is a fault of pierfs, and worth a report" // Internal, and codes of a newer daemon
}

// Complete returns e, with a way out if neither it nor what was found has one.
func (e *Error) Complete() *Error {
	if e.Hint != "" {
		return e
	}
	for _, f := range e.Findings {
		if f.Hint != "" {
			return e
		}
	}
	return e.WithHint("%s", e.Code.WayOut())
}
