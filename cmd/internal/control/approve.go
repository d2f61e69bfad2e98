package control

import (
	"time"

	"pierfs/conncfg"
)

// The verbs by which a second person lets changes of what is protected come into force.
var (
	Pending = Verb[PendingRequest, PendingAnswer]{Name: "pending"}
	Approve = Verb[ApproveRequest, ChangeAnswer]{Name: "approve", Within: 5 * time.Minute}
	Reject  = Verb[ApproveRequest, ChangeAnswer]{Name: "reject", Within: 5 * time.Minute}
)

// PendingRequest asks for the changes that wait.
type PendingRequest struct{}

// PendingAnswer is the changes that wait, the oldest first.
type PendingAnswer struct {
	Pending []Proposal `json:"pending"`
}

// Proposal is a change that waits for a second person.
type Proposal struct {
	ID       string               `json:"id"`
	Time     time.Time            `json:"time"`
	UID      uint32               `json:"uid"` // of who wants it, and cannot approve it
	User     string               `json:"user,omitempty"`
	Verb     string               `json:"verb"` // "by hand" for a file that was edited: what it held before is in force
	Subject  string               `json:"subject,omitempty"`
	Reason   string               `json:"reason,omitempty"`
	Protects []string             `json:"protects"` // why it waits
	Files    []string             `json:"files"`
	Changes  []conncfg.Difference `json:"changes"`
}

// ApproveRequest approves or rejects a change that waits.
type ApproveRequest struct {
	ID string `json:"id"`
	ChangeOptions
}
