package control

import "time"

// The verbs that tell what a daemon does, while it does it and afterwards.
var (
	Events      = Feed[EventsRequest, Event]{Name: "events", Live: true}
	Deployments = Feed[DeploymentsRequest, Deployment]{Name: "deployments"}
	Log         = Verb[LogRequest, LogAnswer]{Name: "log"}
	Trace       = Feed[TraceRequest, TraceLine]{Name: "trace"}
	Watch       = Feed[StatusRequest, StatusAnswer]{Name: "status-watch", Live: true}
)

// observing describes them.
func observing() []Description {
	return []Description{Events.Describe(), Deployments.Describe(), Watch.Describe(), Log.Describe(), Trace.Describe()}
}

// EventKind is the stable word for what an event is about.
type EventKind string

const (
	EventListening  EventKind = "listening"  // from here on nothing is missed; Lost counts what was before and is known no more
	EventState      EventKind = "state"      // a connection has come to another state
	EventDeployment EventKind = "deployment" // an attempt to bring a connection into service has ended
	EventApplied    EventKind = "applied"    // definitions were read again, and something was done about it
	EventChanged    EventKind = "changed"    // a definition was changed, by whom and to which revision
	EventWarning    EventKind = "warning"    // what the daemon logs as a warning
	EventError      EventKind = "error"      // what the daemon logs as an error
	EventLog        EventKind = "log"        // a connection's log level was set
	EventLost       EventKind = "lost"       // whoever listens was too slow: Lost events are missing here
	EventStopping   EventKind = "stopping"   // the daemon is on its way out; nothing follows
)

// EventKinds returns every kind, for the page that documents them.
func EventKinds() []EventKind {
	return []EventKind{EventListening, EventState, EventDeployment, EventApplied, EventChanged, EventWarning, EventError, EventLog, EventLost, EventStopping}
}

// Event is one thing that has happened in a daemon.
type Event struct {
	Seq         uint64    `json:"seq"` // one more than that before it, within the life of the daemon
	Time        time.Time `json:"time"`
	Kind        EventKind `json:"event"`
	Name        string    `json:"name,omitempty"` // of the connection; "" where it is about the daemon
	Environment string    `json:"environment,omitempty"`
	State       State     `json:"state,omitempty"`
	Before      State     `json:"before,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Cause       string    `json:"cause,omitempty"`
	// Deployment is the attempt that has ended.
	Deployment *Deployment `json:"deployment,omitempty"`
	// Text is what a warning, an error or a change says, in one line.
	Text string `json:"text,omitempty"`
	Lost uint64 `json:"lost,omitempty"`
}

// EventsRequest asks for events. Without Follow those that are known are told, and that is all.
type EventsRequest struct {
	Name        string    `json:"name,omitempty"` // of one connection; without it, all
	Environment string    `json:"environment,omitempty"`
	Since       time.Time `json:"since,omitzero"` // leave out what is older
	Follow      bool      `json:"follow,omitempty"`
	New         bool      `json:"new,omitempty"` // nothing that was before
}

// DeploymentsRequest asks for attempts to bring connections into service, the oldest first.
type DeploymentsRequest struct {
	Name        string    `json:"name,omitempty"` // of one connection; without it, all
	Environment string    `json:"environment,omitempty"`
	Since       time.Time `json:"since,omitzero"`
	Last        int       `json:"last,omitempty"` // only as many; 0 is all that are kept
}

// Deployment is one attempt to bring a connection into service, ended: each login that failed, each failure to mount, and what became of
// it at last.
type Deployment struct {
	Time        time.Time `json:"time"`
	Name        string    `json:"name"`
	Environment string    `json:"environment"`
	Try         int       `json:"try"`   // 1 for the first since it was in service, or since the daemon started
	Phase       string    `json:"phase"` // the step that it ended with: see docs/OPERATING.md
	OK          bool      `json:"ok"`
	Millis      float64   `json:"ms"`
	Cause       string    `json:"cause,omitempty"`
	Code        Code      `json:"code,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Endpoint    string    `json:"endpoint,omitempty"`
}

// LogRequest sets the level at which a connection is logged, or asks for it.
type LogRequest struct {
	Name        string `json:"name"`
	Environment string `json:"environment,omitempty"`
	Level       string `json:"level,omitempty"` // debug, info, warn, error; default is the daemon's own; "" asks
}

// LogAnswer is the level at which a connection is logged now.
type LogAnswer struct {
	Name        string `json:"name"`
	Environment string `json:"environment"`
	Level       string `json:"level"`
	Own         bool   `json:"own"` // it was set for this connection
}

// TraceRequest asks what was last said between a mounted connection and its server.
type TraceRequest struct {
	Name        string `json:"name"`
	Environment string `json:"environment,omitempty"`
	Last        int    `json:"last,omitempty"` // only as many lines; 0 is all that are kept
}

// TraceLine is one thing that was said. Secrets and content are not in it.
type TraceLine struct {
	Time    time.Time `json:"time"`
	Session uint64    `json:"session"` // counts the connection's sessions from 1
	Kind    string    `json:"kind"`    // sent, got or note
	Text    string    `json:"text"`
}

// The phases of a deployment that are no steps of a login.
const (
	PhaseResolve = "resolve"    // definition, variables and secrets
	PhasePoint   = "mountPoint" // the directory that it is mounted on
	PhasePrepare = "prepare"    // the tree, its journal and its staging files
	PhaseMount   = "mount"      // the kernel
	PhaseConnect = "connect"    // the server, where no step of a login is known
	PhaseReady   = "ready"      // in service
	PhaseSession = "session"    // it was in service, and the server went away
	PhaseTaken   = "taken"      // it was in service, and somebody unmounted it
	PhaseUnmount = "unmount"    // it was taken out of service in order
)
