package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

const (
	maxReply   = 64 << 10 // bytes of a reply, and of one line of any reply
	maxStatus  = 1 << 20  // bytes kept of a reply to STAT, which carries a listing
	maxSkipped = 8 << 20  // bytes of a reply to STAT that are read in all
	maxEarly   = 100      // preliminary replies to one command
)

var (
	// ErrTooLong is why a session was given up that brought more of a reply than is read of one.
	ErrTooLong = errors.New("the server's reply has no end")

	errMalformed = errors.New("the server sent no FTP reply")
	errStray     = errors.New("the server sent a reply that nothing had asked for")
)

// early reports whether more is to follow (1yz).
func (r Reply) early() bool { return r.Code < 200 }

// good reports whether the server has done, or begun, what it was asked for (1yz, 2yz, 3yz).
func (r Reply) good() bool { return r.Code < 400 }

// text is the reply in one line, for people.
// said is r in the trace: of many lines the first and the last.
func (r Reply) said() string {
	code := strconv.Itoa(r.Code)
	switch n := len(r.Lines); n {
	case 0:
		return code
	case 1:
		return code + " " + r.Lines[0]
	default:
		return fmt.Sprintf("%s-%s (%d lines) %s", code, r.Lines[0], n, r.Lines[n-1])
	}
}

func (r Reply) text() string {
	if len(r.Lines) == 0 {
		return fmt.Sprint(r.Code)
	}
	return fmt.Sprintf("%d %s", r.Code, r.Lines[len(r.Lines)-1])
}

// readReply reads one reply. wide keeps more of it, and reads on where even that is too little; any other reply that is
// longer than maxReply is an error.
func readReply(r *bufio.Reader, wide bool) (Reply, error) {
	line, _, err := readLine(r)
	if err != nil {
		return Reply{}, err
	}
	line = withoutTelnet(line)
	code, mark, ok := parseCode(line)
	if !ok {
		return Reply{}, fmt.Errorf("%w: %.100q", errMalformed, line)
	}
	reply := Reply{Code: code, Lines: []string{text(line)}}
	if mark != '-' {
		return reply, nil
	}
	keep, most := maxReply, maxReply
	if wide {
		keep, most = maxStatus, maxSkipped
	}
	for size := len(line); ; {
		var bare bool
		if line, bare, err = readLine(r); err != nil {
			return Reply{}, ended(err)
		}
		if size += len(line) + 2; size > most {
			return Reply{}, ErrTooLong
		}
		again, mark, ok := parseCode(line)
		ours := ok && again == code // also before lines that are not the last: a widespread habit
		last := ours && mark == ' '
		reply.Bare = reply.Bare || bare
		if ours {
			line = line[min(4, len(line)):]
		}
		if last || size <= keep {
			reply.Lines = append(reply.Lines, string(line))
		} else {
			reply.Cut = true
		}
		if last {
			return reply, nil
		}
	}
}

// readLine reads one line without its end, which is CR LF or a bare LF.
func readLine(r *bufio.Reader) (line []byte, bare bool, err error) {
	var long []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(long)+len(part) > maxReply {
			return nil, false, ErrTooLong
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long = append(long, part...)
			continue
		case err != nil && len(long)+len(part) > 0:
			return nil, false, ended(err)
		case err != nil:
			return nil, false, err
		case long != nil:
			part = append(long, part...)
		}
		line, whole := bytes.CutSuffix(bytes.TrimSuffix(part, []byte("\n")), []byte("\r"))
		return line, !whole, nil
	}
}

// withoutTelnet takes off what a server answers to a name that looks like telnet (RFC 854): proftpd 1.3.8 says WONT in front of
// its reply to a path with the bytes FF FE in it.
func withoutTelnet(line []byte) []byte {
	const iac, will, dont = 0xff, 0xfb, 0xfe
	for len(line) >= 2 && line[0] == iac {
		n := 2
		if line[1] >= will && line[1] <= dont {
			n = 3
		}
		line = line[min(n, len(line)):]
	}
	return line
}

// ended makes of an end in the middle of something what it is.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// parseCode takes the first line of a reply apart; mark is ' ' or '-'. The last line of a reply looks the same.
func parseCode(line []byte) (code int, mark byte, ok bool) {
	if len(line) < 3 || line[0] < '1' || line[0] > '6' {
		return 0, 0, false
	}
	for _, c := range line[:3] {
		if c < '0' || c > '9' {
			return 0, 0, false
		}
		code = code*10 + int(c-'0')
	}
	if len(line) == 3 {
		return code, ' ', true
	}
	return code, line[3], line[3] == ' ' || line[3] == '-'
}

// text is a line that begins with a code, without it.
func text(line []byte) string {
	return string(line[min(4, len(line)):])
}

// own are the good codes that belong to one kind of command each. A server that answers with another kind's is out of step;
// otherwise any good code is taken for any other, as servers do.
var own = map[int][]string{
	213: {"SIZE", "MDTM", "MFMT", "MFF", "STAT", "HASH", "XCRC", "XMD5", "XSHA", "XSHA1", "XSHA256", "XSHA512", "MD5", "AVBL"},
	215: {"SYST"},
	220: {"AUTH", "REIN"},
	227: {"PASV"},
	229: {"EPSV"},
	257: {"PWD", "XPWD", "MKD", "XMKD"},
	331: {"USER"},
	332: {"USER", "PASS"},
	350: {"RNFR", "REST"},
}

// strict are commands whose good answer has one code only, as what it says is needed or more is to come.
var strict = map[string]int{"SIZE": 213, "MDTM": 213, "PWD": 257, "RNFR": 350, "REST": 350, "MLST": 250}

// errMisfit is a reply that answers another command than the one it was taken for.
var errMisfit = errors.New("the server's reply does not fit its command")

// misfit returns an error if reply cannot be the answer to command.
func misfit(command string, reply Reply) error {
	if !reply.good() {
		return nil
	}
	verb, _, _ := strings.Cut(command, " ")
	if code, ok := strict[verb]; ok && code != reply.Code {
		return fmt.Errorf("%w: %s, %.200q", errMisfit, verb, reply.text())
	}
	if verbs, ok := own[reply.Code]; ok && !slices.Contains(verbs, verb) {
		return fmt.Errorf("%w: %s, %.200q", errMisfit, verb, reply.text())
	}
	return nil
}
