package control

// DoctorRequest asks why something does not work though a test succeeds: of the connection Name, which may be the path of any file that
// a program uses, and of this machine; of the machine alone without a Name. User is who is to use it, the caller if it is empty.
type DoctorRequest struct {
	Name        string `json:"name,omitempty"`
	Environment string `json:"environment,omitempty"`
	User        string `json:"user,omitempty"`
}

// DoctorAnswer is what was looked at, in the order in which it is best mended.
type DoctorAnswer struct {
	Checks []Examined `json:"checks"`
}

// Examined is one thing that was looked at.
type Examined struct {
	Check string `json:"check"` // a stable word
	Of    string `json:"of"`    // "machine", or the connection
	// OK says that it is as it should be. One that is Unknown could not be looked at, and counts for nothing. Advice is what works
	// all the same, only worse.
	OK      bool   `json:"ok"`
	Unknown bool   `json:"unknown,omitempty"`
	Advice  bool   `json:"advice,omitempty"`
	Detail  string `json:"detail,omitempty"`
	Fix     string `json:"fix,omitempty"`
	Code    Code   `json:"code,omitempty"` // of a check that is not OK
}

// Failed returns the code of the first check that is not as it should be; "" if there is none.
func (a DoctorAnswer) Failed() Code {
	for _, c := range a.Checks {
		if !c.OK && !c.Unknown && !c.Advice {
			return c.Code
		}
	}
	return ""
}
