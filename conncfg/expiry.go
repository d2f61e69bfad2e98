package conncfg

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"time"
)

// expiryDays are how many days before a certificate ends somebody is told, each time once.
var expiryDays = [...]int{30, 14, 7, 1}

// Expiry returns how near a certificate's end is: 0 while it is good for more than 30 days, one more for each of 30, 14, 7
// and 1 days that have been reached, and 5 once it has ended.
func Expiry(notAfter, now time.Time) int {
	left := notAfter.Sub(now)
	if left <= 0 {
		return len(expiryDays) + 1
	}
	stage := 0
	for _, days := range expiryDays {
		if left <= time.Duration(days)*24*time.Hour {
			stage++
		}
	}
	return stage
}

// ServerCertificate is the finding about a server's certificate that ends soon, or has ended and is accepted because
// somebody trusts it by its fingerprint. ok is false while there is nothing to say.
func ServerCertificate(notAfter, now time.Time) (f Finding, ok bool) {
	p := expiring("the server's certificate", notAfter, now)
	if p == nil {
		return Finding{}, false
	}
	p.hint = "ask the server's operator to renew it; one that is trusted by its fingerprint must then be trusted anew"
	return Finding{Severity: Warning}.with(p, ""), true
}

func expiring(what string, notAfter, now time.Time) *problem {
	end := notAfter.UTC().Format("2006-01-02 15:04 UTC")
	switch stage := Expiry(notAfter, now); {
	case stage > len(expiryDays):
		return &problem{CodeCertExpired, what + " has ended at " + end, ""}
	case stage > 0:
		days := int(notAfter.Sub(now).Hours() / 24)
		return &problem{CodeCertExpires, fmt.Sprintf("%s ends at %s, in %s", what, end, daysLeft(days)), ""}
	}
	return nil
}

func daysLeft(days int) string {
	switch days {
	case 0:
		return "less than a day"
	case 1:
		return "1 day"
	}
	return fmt.Sprintf("%d days", days)
}

// FileEnd returns when what a file of certificates is for comes to its end: our own certificate, which comes first in its file, or authorities, of
// which one that lasts is enough. It is zero where the file cannot be read, is none, or holds none. It takes as long as the file system does.
func FileEnd(name string, own bool) time.Time {
	certs, err := readCertificates(name)
	if err != nil || len(certs) == 0 {
		return time.Time{}
	}
	return lastOf(certs, own)
}

func lastOf(certs []*x509.Certificate, own bool) time.Time {
	last := certs[0].NotAfter
	for _, c := range certs[1:] {
		if !own && c.NotAfter.After(last) {
			last = c.NotAfter
		}
	}
	return last
}

// FileCertificate is the finding about a file of certificates on this machine that ends soon, or has ended. ok is false while there is nothing
// to say.
func FileCertificate(field, name string, notAfter, now time.Time) (f Finding, ok bool) {
	p := expiring("the certificate in it", notAfter, now)
	if p == nil {
		return Finding{}, false
	}
	p.hint = "have it renewed"
	return Finding{Severity: Warning, Field: field}.with(p, name), true
}

// lookAtCertificates judges a file of certificates.
func lookAtCertificates(name string, own bool, now time.Time) *problem {
	certs, err := readCertificates(name)
	switch {
	case err != nil:
		return nil // not ours to see; the daemon may
	case len(certs) == 0:
		return &problem{CodeInvalid, fmt.Sprintf("file %q holds no certificate in PEM form", name), "it begins with -----BEGIN CERTIFICATE-----; openssl x509 -inform der -in FILE writes one"}
	}
	p := expiring("the certificate in it", lastOf(certs, own), now)
	if p != nil {
		p.hint = "have it renewed"
	}
	return p
}

// readCertificates returns the certificates of a PEM file; what else is in it is passed over.
func readCertificates(name string) ([]*x509.Certificate, error) {
	f, err := openRegular(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDocument))
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, c)
		}
	}
	return certs, nil
}
