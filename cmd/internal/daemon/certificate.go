package daemon

import (
	"log/slog"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

// certificateRound is how often it is looked whether a certificate that was seen comes to its end.
const certificateRound = time.Hour

// certificates are those that servers have shown at their last logins, by HOST:PORT. The zero value has seen none.
type certificates struct {
	mu    sync.Mutex
	seen  map[string]*certificate
	files map[string]*certificate // of this machine, by connection and path
	ends  map[fileEnd]*lookedUp   // of those files
}

// fileEnd is one use of a file of certificates.
type fileEnd struct {
	name string
	own  bool
}

// lookedUp is when the certificates of a file end, as it was when it had that size and time of change.
type lookedUp struct {
	end     time.Time
	size    int64
	changed time.Time
	looking chan struct{} // closed when who looks is back; nil where nobody looks
}

// filePatience is how long a file of certificates is waited for. It may lie in a network file system that hangs; whoever looks is then left to himself,
// and what was known before is told.
const filePatience = 500 * time.Millisecond

// endOf returns when what a file of certificates is for ends; zero where that is not known.
func (c *certificates) endOf(file fileEnd) time.Time {
	c.mu.Lock()
	if c.ends == nil {
		c.ends = map[fileEnd]*lookedUp{}
	}
	known := c.ends[file]
	if known == nil {
		known = &lookedUp{}
		c.ends[file] = known
	}
	if known.looking != nil { // it hangs, and one who waits is enough
		defer c.mu.Unlock()
		return known.end
	}
	back := make(chan struct{})
	known.looking = back
	was := *known
	c.mu.Unlock()
	go c.look(file, was) // ends when the file system answers
	select {
	case <-back:
	case <-time.After(filePatience):
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return known.end
}

// look finds out when the certificates of a file end, if it is another one than was.
func (c *certificates) look(file fileEnd, was lookedUp) {
	now := lookedUp{}
	if info, err := os.Stat(file.name); err == nil {
		now = lookedUp{end: was.end, size: info.Size(), changed: info.ModTime()}
		if now.size != was.size || !now.changed.Equal(was.changed) {
			now.end = conncfg.FileEnd(file.name, file.own)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	*c.ends[file] = now
	close(was.looking)
}

type certificate struct {
	fingerprint string
	notAfter    time.Time
	told        int // the stage of conncfg.Expiry that was logged
}

// saw notes what the server at address has shown, and returns what there is to log about it: each stage of its end once.
func (c *certificates) saw(address, fingerprint string, notAfter, now time.Time) (conncfg.Finding, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = map[string]*certificate{}
	}
	if known := c.seen[address]; known == nil || known.fingerprint != fingerprint {
		c.seen[address] = &certificate{fingerprint: fingerprint, notAfter: notAfter}
	}
	return c.seen[address].due(now)
}

// news reports whether a stage of the end of a certificate in a file was not told yet.
func (c *certificates) news(file string, notAfter, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files == nil {
		c.files = map[string]*certificate{}
	}
	if known := c.files[file]; known == nil || !known.notAfter.Equal(notAfter) {
		c.files[file] = &certificate{notAfter: notAfter}
	}
	_, news := c.files[file].due(now)
	return news
}

// due returns the finding of a stage that was not told yet. certificates.mu is held.
func (c *certificate) due(now time.Time) (conncfg.Finding, bool) {
	stage := conncfg.Expiry(c.notAfter, now)
	if stage <= c.told {
		return conncfg.Finding{}, false
	}
	c.told = stage
	return conncfg.ServerCertificate(c.notAfter, now)
}

// reached returns what there is to log by now, by address.
func (c *certificates) reached(now time.Time) map[string]conncfg.Finding {
	c.mu.Lock()
	defer c.mu.Unlock()
	news := map[string]conncfg.Finding{}
	for address, known := range c.seen {
		if f, ok := known.due(now); ok {
			news[address] = f
		}
	}
	return news
}

// finding returns what there is to say of the certificate of the server at address.
func (c *certificates) finding(address string, now time.Time) (conncfg.Finding, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.seen[address]
	if known == nil {
		return conncfg.Finding{}, false
	}
	return conncfg.ServerCertificate(known.notAfter, now)
}

// end returns when the certificate ends that the server at address has shown; zero if it has shown none.
func (c *certificates) end(address string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.seen[address]; known != nil {
		return known.notAfter
	}
	return time.Time{}
}

// certified is told at each login which certificate the server at address has shown. It does not block.
func (d *Daemon) certified(address, fingerprint string, notAfter time.Time) {
	if f, ok := d.certificates.saw(address, fingerprint, notAfter, time.Now()); ok {
		d.warnOf(address, f)
	}
}

// endings returns when the certificates end that a target relies on: that which its server has shown last, and those in files of this machine.
func (d *Daemon) endings(t conncfg.Target) (all []control.Ending) {
	add := func(of, file string, end time.Time) {
		if !end.IsZero() {
			all = append(all, control.Ending{Of: of, File: file, NotAfter: end, DaysLeft: int(math.Floor(time.Until(end).Hours() / 24))})
		}
	}
	if t.Protocol != conncfg.FTPS {
		return nil
	}
	add("server", "", d.certificates.end(t.Address()))
	if t.TLS.CertFile != "" {
		add("client", t.TLS.CertFile, d.certificates.endOf(fileEnd{t.TLS.CertFile, true}))
	}
	if t.TLS.CAFile != "" {
		add("authority", t.TLS.CAFile, d.certificates.endOf(fileEnd{t.TLS.CAFile, false}))
	}
	return all
}

// fileFinding returns what there is to say of a certificate in a file of this machine.
func fileFinding(e control.Ending, now time.Time) (conncfg.Finding, bool) {
	field := map[string]string{"client": "clientCertFile", "authority": "caFile"}[e.Of]
	if field == "" {
		return conncfg.Finding{}, false // the server's: certificates.finding tells it
	}
	return conncfg.FileCertificate(field, e.File, e.NotAfter, now)
}

// withEndings tells in c when the certificates of m end, and warns where that is soon.
func (m *mount) withEndings(c control.Connection) control.Connection {
	c.Certificates = m.d.endings(m.reach())
	for _, e := range c.Certificates {
		if f, ok := fileFinding(e, time.Now()); ok {
			f.Connection, f.Environment = c.Name, c.Environment
			c.Findings = append(slices.Clip(c.Findings), f)
		}
	}
	return c
}

// lookAtCertificates warns of those that have come nearer to their end.
func (d *Daemon) lookAtCertificates() {
	for _, m := range d.all() {
		for _, e := range d.endings(m.reach()) {
			if f, ok := fileFinding(e, time.Now()); ok && d.certificates.news(label(m.want)+" "+e.File, e.NotAfter, time.Now()) {
				m.log.Warn("certificate", "file", e.File, "code", f.Code, "field", f.Field, "finding", f.Message, "hint", f.Hint)
			}
		}
	}
	for address, f := range d.certificates.reached(time.Now()) {
		d.warnOf(address, f)
	}
}

// warnOf logs a finding about the server at address for each connection that leads there.
func (d *Daemon) warnOf(address string, f conncfg.Finding) {
	logs := []*slog.Logger{}
	for _, m := range d.towards(address) {
		logs = append(logs, m.log)
	}
	if len(logs) == 0 { // a login that comes before its mount is known
		logs = append(logs, d.log)
	}
	for _, log := range logs {
		log.Warn("certificate", "server", address, "code", f.Code, "finding", f.Message, "hint", f.Hint)
	}
}
