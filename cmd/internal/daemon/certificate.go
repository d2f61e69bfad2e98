package daemon

import (
	"log/slog"
	"sync"
	"time"

	"pierfs/conncfg"
)

// certificateRound is how often it is looked whether a certificate that was seen comes to its end.
const certificateRound = time.Hour

// certificates are those that servers have shown at their last logins, by HOST:PORT. The zero value has seen none.
type certificates struct {
	mu   sync.Mutex
	seen map[string]*certificate
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

// lookAtCertificates warns of those that have come nearer to their end.
func (d *Daemon) lookAtCertificates() {
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
