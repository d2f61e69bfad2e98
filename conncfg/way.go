package conncfg

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// The rules for how sessions get to the server: through whom, from where, and how fast.

// viaPorts are the usual ports of hosts in between; there is none for HTTP proxies.
var viaPorts = map[ViaKind]int{ViaSSH: 22, ViaSOCKS: 1080}

const viaForm = `write "ssh://user@host:22", "socks5://host:1080" or "http://host:3128"`

// viaNone leads straight to the server, in an environment whose connection goes through another host elsewhere.
const viaNone = "none"

func checkVia(s *setting) *problem {
	if s.text == viaNone {
		return nil
	}
	v, p := parseVia(s.text)
	if p == nil {
		s.text = v.url()
	}
	return p
}

// readVia puts the host that text names into v.
func readVia(text string, v Via) Via {
	read, p := parseVia(text)
	if p != nil { // it has been checked: this is viaNone
		return v
	}
	v.Kind, v.Host, v.Port, v.Username = read.Kind, read.Host, read.Port, read.Username
	return v
}

// parseVia takes KIND://[USER@]HOST[:PORT] apart.
func parseVia(text string) (Via, *problem) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return Via{}, invalid("is no URL", viaForm)
	}
	v := Via{Kind: ViaKind(strings.ToLower(scheme))}
	switch v.Kind {
	case ViaSSH, ViaSOCKS, ViaHTTP:
	case "socks5h", "socks":
		v.Kind = ViaSOCKS
	default:
		return Via{}, invalid("leads through nothing that this program knows", viaForm)
	}
	u, err := url.Parse("x://" + rest)
	if err != nil || strings.Count(u.Host, ":") > 1 && u.Host[0] != '[' {
		return Via{}, invalid("is not well formed", viaForm+"; IPv6 addresses stand in brackets")
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return Via{}, invalid("goes on after the host", viaForm)
	}
	return v, v.take(u)
}

// take fills in what the URL says and checks it.
func (v *Via) take(u *url.URL) *problem {
	if _, has := u.User.Password(); has {
		return invalid("carries a password", "write the password into viaPassword")
	}
	v.Username = u.User.Username()
	user, host := &setting{text: v.Username}, &setting{text: u.Hostname()}
	if p := checkUsername(user); p != nil {
		return invalid("has a user name that "+p.message, p.hint)
	}
	if p := checkHost(host); p != nil {
		return invalid("has a host that "+p.message, viaForm)
	}
	v.Host, v.Port = host.text, viaPorts[v.Kind]
	if u.Port() != "" {
		port := &setting{text: u.Port()}
		if p := checkPort(port); p != nil {
			return &problem{p.code, "has a port that " + p.message, p.hint}
		}
		v.Port = int(port.number)
	}
	switch {
	case v.Port == 0:
		return invalid("names no port, and proxies have no usual one", `write "http://`+v.Host+`:3128", with the proxy's port`)
	case v.Kind == ViaSSH && v.Username == "":
		return invalid("names no user", `write "ssh://user@`+v.Host+`"`)
	}
	return nil
}

// url is v as a definition has it.
func (v Via) url() string {
	u := url.URL{Scheme: string(v.Kind), Host: net.JoinHostPort(v.Host, strconv.Itoa(v.Port))}
	if v.Username != "" {
		u.User = url.User(v.Username)
	}
	return u.String()
}

// maskVia hides what may be a password in a URL that is no good.
func maskVia(text string) string {
	at := strings.LastIndexByte(text, '@')
	if at < 0 {
		return text
	}
	scheme, _, ok := strings.Cut(text[:at], "://")
	if !ok || strings.ContainsAny(scheme, ":@/") {
		return "***" + text[at:]
	}
	return scheme + "://***" + text[at:]
}

func checkSourceAddress(s *setting) *problem {
	const hint = "write one of this machine's addresses, as ip address shows them"
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s.text, "["), "]"))
	switch {
	case err != nil:
		return invalid("is no address", hint)
	case addr.IsUnspecified() || addr.IsMulticast() || !isInterface(addr.Zone()):
		return invalid("is no address that a session can come from", hint+", or leave the field out")
	}
	s.text = addr.Unmap().String()
	return nil
}

// rateUnits are bytes a second, by the unit in lower case. A capital B and a small b are too easily confused to tell bytes
// from bits, so bits are spelt out.
var rateUnits = map[string]float64{
	"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30,
	"kbit": 1e3 / 8, "mbit": 1e6 / 8, "gbit": 1e9 / 8,
}

const rateHint = `write "2MiB", "500KB" or "10Mbit", each a second; a bare number is bytes`

// parseRate reads a number with a unit, to whole bytes a second.
func parseRate(text string) (int64, *problem) {
	text = strings.ToLower(strings.TrimSpace(text))
	text = strings.TrimSuffix(text, "/s")
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyz ")
	unit, known := rateUnits[strings.TrimSpace(text[len(digits):])]
	number, err := strconv.ParseFloat(digits, 64)
	if err != nil || !known || strings.Trim(digits, "0123456789.") != "" {
		return 0, invalid("is no rate", rateHint)
	}
	return int64(min(number*unit, 1<<62)), nil
}

// Below leastRate a session would make too little progress to be told from a dead one.
const (
	leastRate = 16 << 10
	mostRate  = 1 << 40
)

func checkRate(s *setting) *problem {
	if s.number == 0 || s.number >= leastRate && s.number <= mostRate {
		return nil
	}
	return &problem{CodeRange, "is outside 16 KiB to 1 TiB a second", rateHint + "; 0 is no limit"}
}

func checkPorts(s *setting) *problem {
	const hint = `write "50000-50100", as the server's operator tells`
	first, last, ok := strings.Cut(s.text, "-")
	if !ok {
		last = first
	}
	low, high := &setting{text: strings.TrimSpace(first)}, &setting{text: strings.TrimSpace(last)}
	for _, end := range []*setting{low, high} {
		if p := checkPort(end); p != nil {
			return &problem{p.code, "has an end that " + p.message, hint}
		}
	}
	if low.number > high.number {
		return invalid("ends before it begins", hint)
	}
	s.text = Ports{int(low.number), int(high.number)}.String()
	return nil
}

// readPorts reads what checkPorts has brought to its form.
func readPorts(text string) Ports {
	first, last, _ := strings.Cut(text, "-")
	low, lowErr := strconv.Atoi(first)
	high, highErr := strconv.Atoi(last)
	if lowErr != nil || highErr != nil {
		return Ports{}
	}
	return Ports{low, high}
}

// checkFallbackHosts wants what host takes, each with a port of its own if it has one, and commas between them.
func checkFallbackHosts(s *setting) *problem {
	const hint = `write "b.example.com, c.example.com:2222", or leave it out`
	var places []string
	for part := range strings.SplitSeq(s.text, ",") {
		place := Place{Host: strings.TrimSpace(part)}
		if host, port, err := net.SplitHostPort(place.Host); err == nil && !strings.ContainsAny(place.Host, "/@") {
			number := &setting{text: port}
			if p := checkPort(number); p != nil {
				return &problem{p.code, "has a port that " + p.message, hint}
			}
			place = Place{host, int(number.number)}
		}
		host := &setting{text: place.Host}
		if p := checkHost(host); p != nil {
			return &problem{p.code, "has a host that " + p.message, hint}
		}
		place.Host = host.text
		places = append(places, place.String())
	}
	s.text = strings.Join(places, ", ")
	return nil
}

// readPlaces reads what checkFallbackHosts has brought to its form.
func readPlaces(text string) (places []Place) {
	for part := range strings.SplitSeq(text, ", ") {
		place := Place{Host: part}
		if host, port, err := net.SplitHostPort(part); err == nil {
			number, _ := strconv.Atoi(port)
			place = Place{host, number}
		}
		places = append(places, place)
	}
	return places
}
