package control

import (
	"cmp"
	"slices"
	"time"

	"pierfs/conncfg"
)

// The verbs. docs/CLI.md shows each answer as `pierfs VERB --json` prints it.
var (
	Apply    = Verb[ApplyRequest, ApplyAnswer]{Name: "apply", Within: 5 * time.Minute}
	List     = Verb[ListRequest, ListAnswer]{Name: "list"}
	Status   = Verb[StatusRequest, StatusAnswer]{Name: "status"}
	Show     = Verb[ShowRequest, ShowAnswer]{Name: "show"}
	Enable   = Verb[EnableRequest, ChangeAnswer]{Name: "enable", Within: 5 * time.Minute}
	Test     = Feed[TestRequest, Step]{Name: "test", Live: true}
	Doctor   = Verb[DoctorRequest, DoctorAnswer]{Name: "doctor"}
	Mount    = Verb[MountRequest, MountAnswer]{Name: "mount", Within: 5 * time.Minute}
	MountURL = Verb[MountURLRequest, MountAnswer]{Name: "mount-url", Within: 5 * time.Minute}
	Umount   = Verb[UmountRequest, MountAnswer]{Name: "umount", Within: 5 * time.Minute}
	Ls       = Feed[LsRequest, File]{Name: "ls"}
	Stat     = Verb[FileRequest, File]{Name: "stat"}
	Get      = Download[GetRequest, Got]{Name: "get"}
	Put      = Upload[PutRequest, File]{Name: "put"}
	PutPlan  = Verb[PutRequest, Done]{Name: "put-plan"}
	Rm       = Feed[RmRequest, Removal]{Name: "rm", Live: true}
	Mv       = Verb[MvRequest, Done]{Name: "mv"}
	Mkdir    = Verb[MkdirRequest, File]{Name: "mkdir"}
	Trust    = Verb[TrustRequest, TrustAnswer]{Name: "trust"}

	Queue       = Feed[QueueRequest, Due]{Name: "queue"}
	QueueRetry  = Verb[QueueChange, QueueChanged]{Name: "queue-retry"}
	QueueHold   = Verb[QueueChange, QueueChanged]{Name: "queue-hold"}
	QueueDrop   = Verb[QueueChange, QueueChanged]{Name: "queue-drop"}
	QueueExport = Download[QueueItem, Due]{Name: "queue-export"}

	Metrics = Verb[MetricsRequest, MetricsAnswer]{Name: "metrics"}

	CacheStatus = Verb[CacheRequest, CacheAnswer]{Name: "cache-status"}
	CacheDrop   = Verb[CacheChange, Dropped]{Name: "cache-drop"}
	CacheWarm   = Feed[CacheChange, Warming]{Name: "cache-warm", Live: true}
)

// All describes every verb.
func All() []Description {
	return append([]Description{Apply.Describe(), List.Describe(), Status.Describe(), Show.Describe(), Enable.Describe(),
		Test.Describe(), Doctor.Describe(), Mount.Describe(), MountURL.Describe(), Umount.Describe(), Ls.Describe(), Stat.Describe(),
		Get.Describe(), Put.Describe(), PutPlan.Describe(), Rm.Describe(), Mv.Describe(), Mkdir.Describe(), Trust.Describe(),
		Queue.Describe(), QueueRetry.Describe(), QueueHold.Describe(), QueueDrop.Describe(), QueueExport.Describe(), Metrics.Describe(),
		CacheStatus.Describe(), CacheDrop.Describe(), CacheWarm.Describe()}, slices.Concat(transferring(), observing(), changes())...)
}

// State is where a connection stands in one environment.
type State string

const (
	StateDisabled  State = "disabled"  // switched off in its definition
	StateUnmounted State = "unmounted" // by hand, until it is mounted by hand or the daemon starts anew
	StateStarting  State = "starting"  // being mounted
	StateReady     State = "ready"     // mounted
	StateOffline   State = "offline"   // mounted, but the server is away
	StateDraining  State = "draining"  // being unmounted: what is written is being published
	StateFailed    State = "failed"    // not mounted, and being tried again; Reason says why
)

// Connection is one connection in one environment.
type Connection struct {
	Name        string    `json:"name"`        // NAME, PROJECT/NAME, or the directory of an ad-hoc mount
	Environment string    `json:"environment"` // "" for an ad-hoc mount
	State       State     `json:"state"`
	Since       time.Time `json:"since"`
	Reason      string    `json:"reason,omitempty"` // why it is not ready, in one line
	Cause       string    `json:"cause,omitempty"`  // the stable word for that, as test tells it
	Code        Code      `json:"code,omitempty"`   // what a call that fails for that reason answers
	Hint        string    `json:"hint,omitempty"`   // the way out
	Protocol    string    `json:"protocol,omitempty"`
	Endpoint    string    `json:"endpoint,omitempty"` // as a URL, without any secret
	Dir         string    `json:"dir,omitempty"`      // where it is, or would be, mounted
	ReadOnly    bool      `json:"readOnly,omitempty"`
	AdHoc       bool      `json:"adHoc,omitempty"`
	// Tested is when it last passed a test, in whatever form it had then; Untested says that it has not in the one that it has now.
	Tested   time.Time `json:"tested,omitzero"`
	Untested bool      `json:"untested,omitempty"`
	// Certificates are those that it relies on, and when each ends: that which the server has shown, and those in files of this machine.
	Certificates []Ending `json:"certificates,omitempty"`
	// RotateBy is when the first of the secrets that it logs in with must be changed; zero if none must.
	RotateBy time.Time `json:"rotateBy,omitzero"`
	// Findings is what keeps its definition from being used, and what will.
	Findings []conncfg.Finding `json:"findings,omitempty"`
}

// Ending is when a certificate ends.
type Ending struct {
	Of       string    `json:"of"`             // "server", "client" (clientCertFile) or "authority" (caFile)
	File     string    `json:"file,omitempty"` // of this machine
	NotAfter time.Time `json:"notAfter"`
	DaysLeft int       `json:"daysLeft"` // whole ones; negative once it has ended
}

// NotReady is the code of what keeps a connection that shall be mounted from being ready; "" if it is ready, or not meant to be.
func (c Connection) NotReady() Code {
	switch c.State {
	case StateReady, StateDisabled, StateUnmounted:
		return ""
	case StateOffline:
		return cmp.Or(c.Code, Offline)
	case StateStarting: // for longer than anybody waits
		return Timeout
	}
	return NotMounted
}

// Environment is one environment by name.
type Environment struct {
	Name   string `json:"name"`
	Active bool   `json:"active"`
}

// ApplyRequest asks to read the definitions again and to do what changed; with DryRun, to tell what that would be. A connection that
// would lead elsewhere, or be gone, stays as it was while something is owed to its server, unless Keep leaves that in the journal.
type ApplyRequest struct {
	DryRun bool `json:"dryRun,omitempty"`
	Keep   bool `json:"keep,omitempty"`
}

// ApplyAnswer tells what was done. Connections are those that were touched, as they stand afterwards.
type ApplyAnswer struct {
	Added     []string `json:"added"`
	Changed   []string `json:"changed"`
	Removed   []string `json:"removed"`
	Unchanged int      `json:"unchanged"`
	// Owing is the connections that stay as they were until their servers have what is owed.
	Owing       []Owing           `json:"owing,omitempty"`
	Connections []Connection      `json:"connections"`
	Findings    []conncfg.Finding `json:"findings"`
	// Checklist is what is to be seen to before a connection goes into service: of those that are added or changed, and of all that were not
	// tested since they were changed.
	Checklist []Checked `json:"checklist,omitempty"`
}

// Checked is the checklist of one connection.
type Checked struct {
	Name        string   `json:"name"`
	Environment string   `json:"environment"`
	UniqueName  bool     `json:"uniqueName"`
	Missing     []string `json:"missing,omitempty"` // required fields that are not written
	// Tested is when it last passed a test, in whatever form it had then; Untested says that it has not in the one that it has now.
	Tested   time.Time `json:"tested,omitzero"`
	Untested bool      `json:"untested"`
}

// Owing is how much a connection owes to its server.
type Owing struct {
	Name        string    `json:"name"`
	Environment string    `json:"environment"`
	Changes     int       `json:"changes"`
	Bytes       int64     `json:"bytes"`
	Since       time.Time `json:"since"` // that the oldest is owed
}

// ListRequest asks for all connections.
type ListRequest struct{}

// ListAnswer is every connection in every active environment, and the ad-hoc mounts.
type ListAnswer struct {
	Environments []Environment `json:"environments"`
	Connections  []Connection  `json:"connections"`
}

// StatusRequest asks for the daemon's own state.
type StatusRequest struct{}

// StatusAnswer is the daemon and, for each connection, what it holds.
type StatusAnswer struct {
	Version      string             `json:"version"`
	PID          int                `json:"pid"`
	UID          int                `json:"uid"`
	Started      time.Time          `json:"started"`
	ConfigDir    string             `json:"configDir"`
	StateDir     string             `json:"stateDir"`
	CacheDir     string             `json:"cacheDir"`
	RuntimeDir   string             `json:"runtimeDir"`
	MountRoot    string             `json:"mountRoot"`
	Environments []Environment      `json:"environments"`
	Findings     int                `json:"findings"`          // errors and warnings of the last reading
	Pending      int                `json:"pending,omitempty"` // changes that wait for approval
	Connections  []ConnectionStatus `json:"connections"`
}

// ConnectionStatus is a Connection and what is owed to its server.
type ConnectionStatus struct {
	Connection
	Server    string `json:"server,omitempty"` // how the server names itself
	OpenFiles int    `json:"openFiles"`
	OwedFiles int    `json:"owedFiles"`
	OwedBytes int64  `json:"owedBytes"`
	// OwedSince is since when the oldest acknowledged change is owed, OwedReason why it is not there yet, and OwedCause the stable word
	// for that. Held counts those that wait for a person.
	OwedSince   time.Time `json:"owedSince,omitzero"`
	OwedReason  string    `json:"owedReason,omitempty"`
	OwedCause   string    `json:"owedCause,omitempty"`
	Held        int       `json:"held,omitempty"`
	Quarantined int       `json:"quarantined"`
	Conflicts   int       `json:"conflicts"`           // changes that met somebody else's since the connection was mounted
	LastError   string    `json:"lastError,omitempty"` // of a publication that no program was told of
	Weaker      []string  `json:"weaker,omitempty"`    // which of the usual promises do not hold on this server, in words
}

// ShowRequest asks for one connection; without Environment, in the first active one.
type ShowRequest struct {
	Name        string `json:"name"`
	Environment string `json:"environment,omitempty"`
}

// ShowAnswer is one connection with every variable resolved. There is no field for a secret.
type ShowAnswer struct {
	Connection
	Host           string `json:"host"`
	Port           int    `json:"port"`
	Username       string `json:"username"`
	HasPassword    bool   `json:"hasPassword"`
	WorkingDir     string `json:"workingDir"`
	ConnectTimeout string `json:"connectTimeout"`
	SocketTimeout  string `json:"socketTimeout"`
	RetryCount     int    `json:"retryCount"`
	Encoding       string `json:"encoding"`
	Owner          string `json:"owner"`
	Commit         string `json:"commit"`
	HostKey        string `json:"hostKey,omitempty"`
	// Definition is the fields as they are written, and the defaults of those that are not.
	Definition []ShownField `json:"definition,omitempty"`
}

// ShownField is one field of a definition.
type ShownField struct {
	conncfg.Shown
	// Resolved is what the value becomes in this environment, where that is not what is written.
	Resolved string `json:"resolved,omitempty"`
}

// EnableRequest switches a connection on or off, in its definition.
type EnableRequest struct {
	Name    string `json:"name"`
	Enabled bool   `json:"enabled"`
	ChangeOptions
}

// TestRequest asks to try a connection step by step: a stored one by Name, or the text of a definition, which is called Name
// if it does not say what it is called.
type TestRequest struct {
	Name        string `json:"name,omitempty"`
	Environment string `json:"environment,omitempty"`
	Definition  Sealed `json:"definition,omitzero"`
	// WriteProbe makes a file as an upload does, replaces, reads and removes it. Privileges tries each thing that a login may be
	// allowed, on names of our own. Without them no byte of the server changes.
	WriteProbe bool `json:"writeProbe,omitempty"`
	Privileges bool `json:"privileges,omitempty"`
}

// Step is one step of a test.
type Step struct {
	// Step is resolve, dns, tcp, ssh or banner and tls, auth, features, workingDir, passive, data, list, roundTrip; of a WriteProbe create, write,
	// rename, replace, verify, remove; of Privileges privilege for each, and privileges; clear if something had to be removed behind.
	Step   string  `json:"step"`
	OK     bool    `json:"ok"`
	Millis float64 `json:"ms"`
	Detail string  `json:"detail,omitempty"`
	Cause  string  `json:"cause,omitempty"`
	Fix    string  `json:"fix,omitempty"`

	Warning   string   `json:"warning,omitempty"`   // what went well and is odd all the same
	Privilege string   `json:"privilege,omitempty"` // that was tried in a step privilege
	May       string   `json:"may,omitempty"`       // and whether the login is allowed it: yes, no or unknown
	Left      []string `json:"left,omitempty"`      // names of ours that may be left in the working directory

	RoundTrip *RoundTrip `json:"roundTrip,omitempty"` // of a step roundTrip

	Trace []TraceLine `json:"trace,omitempty"` // what was said before it failed
}

// RoundTrip is what a small question to the server cost, in milliseconds, and the timeouts that go with a server so far away.
type RoundTrip struct {
	Asked          int     `json:"asked"` // so often
	Min            float64 `json:"minMs"`
	Median         float64 `json:"medianMs"`
	Max            float64 `json:"maxMs"`
	ConnectTimeout string  `json:"connectTimeout"`
	SocketTimeout  string  `json:"socketTimeout"`
}

// MountRequest mounts a defined connection that was unmounted by hand or has failed.
type MountRequest struct {
	Name        string `json:"name"`
	Environment string `json:"environment,omitempty"`
}

// MountURLRequest mounts a server without any definition. What it makes ends with the daemon.
type MountURLRequest struct {
	URL      string   `json:"url"`
	Options  []string `json:"options,omitempty"` // FIELD=VALUE
	Password Sealed   `json:"password,omitzero"`
	Dir      string   `json:"dir"`
	HostKey  string   `json:"hostKey,omitempty"`  // the only fingerprint to accept
	TrustNew bool     `json:"trustNew,omitempty"` // pin a key or certificate of a server of which nothing is trusted yet
}

// UmountRequest unmounts by name or, if Name begins with a slash, by directory. Without Force it is refused while programs
// have files open there; with it they have some seconds to close them. Without Keep it is refused while something is owed to the
// server; with it that is sent for drainTimeout at most, and the rest stays in the journal.
type UmountRequest struct {
	Name        string `json:"name"`
	Environment string `json:"environment,omitempty"`
	Force       bool   `json:"force,omitempty"`
	Keep        bool   `json:"keep,omitempty"`
	DryRun      bool   `json:"dryRun,omitempty"` // tell what stands in the way, and what would be unmounted
}

// MountAnswer is the connections that were mounted or unmounted, as they stand afterwards.
type MountAnswer struct {
	Connections []Connection `json:"connections"`
	// Owing is what those that were unmounted leave in their journals.
	Owing []Owing `json:"owing,omitempty"`
	// Trusted is the host key that TrustNew pinned; nil if none was.
	Trusted *TrustAnswer `json:"trusted,omitempty"`
	// Findings are warnings about the options of a mount without definition.
	Findings []conncfg.Finding `json:"findings,omitempty"`
}

// FileRequest names one file of one connection. Path is relative to the working directory; a leading slash does not matter.
type FileRequest struct {
	Connection  string `json:"connection"`
	Environment string `json:"environment,omitempty"`
	Path        Name   `json:"path"`
}

// File is what is known of one file.
type File struct {
	Name   Name      `json:"name"`
	Path   *Name     `json:"path,omitempty"` // below the directory that was asked for, where that is told whole
	Type   string    `json:"type"`           // "file", "directory", "symlink" or "other"
	Size   int64     `json:"size"`
	Mode   string    `json:"mode"` // octal, such as "0644"
	Time   time.Time `json:"modTime,omitzero"`
	UID    *uint32   `json:"uid,omitempty"`
	GID    *uint32   `json:"gid,omitempty"`
	Target *Name     `json:"target,omitempty"` // of a symlink that was asked for by name
}

// PutRequest says where an upload goes.
type PutRequest struct {
	FileRequest
	Mode      uint32 `json:"mode,omitempty"` // permission bits of a new file; 0 is 0644
	Size      *int64 `json:"size,omitempty"` // that the stream must have, where the hand knows it
	NoReplace bool   `json:"noReplace,omitempty"`
	// Into is the name that the file gets if Path is a directory; empty refuses a directory.
	Into Name `json:"into,omitempty"`
	// At, unless it is 0, has the stream go behind what Path holds, which must be so many bytes.
	At int64 `json:"at,omitempty"`
	// Time, unless it is nil, is the modification time that the file gets, where the server sets any.
	Time *time.Time `json:"time,omitempty"`
}

// RmRequest removes a file or link; Dir also an empty directory, Recursive a whole one.
type RmRequest struct {
	FileRequest
	Dir       bool `json:"dir,omitempty"`
	Recursive bool `json:"recursive,omitempty"`
	DryRun    bool `json:"dryRun,omitempty"` // tell what would be removed, and remove nothing
}

// Removal is one name that was removed, or with DryRun would be; what lies in a directory comes before it.
type Removal struct {
	Path  Name   `json:"path"`
	Type  string `json:"type,omitempty"`  // where it is known
	Size  int64  `json:"size"`            // 0 of what is no file
	Found int    `json:"found"`           // how many names were seen so far: all that is left are at least the rest of them
	Error *Error `json:"error,omitempty"` // why it is still there, where the rest goes on all the same
}

// MvRequest renames within one connection.
type MvRequest struct {
	FileRequest
	To        Name `json:"to"`
	NoReplace bool `json:"noReplace,omitempty"`
	DryRun    bool `json:"dryRun,omitempty"` // tell what would be renamed, and rename nothing
}

// MkdirRequest makes a directory, with Parents also those above it.
type MkdirRequest struct {
	FileRequest
	Mode    uint32 `json:"mode,omitempty"` // permission bits; 0 is 0755
	Parents bool   `json:"parents,omitempty"`
	DryRun  bool   `json:"dryRun,omitempty"` // answer with what is there, or would be, and make nothing
}

// Done is the answer where there is little to tell but success.
type Done struct {
	Path Name `json:"path"` // what was done to it is what was asked
	// Replaces is what has the name now; only where nothing was done, but asked what would be.
	Replaces *File `json:"replaces,omitempty"`
	// Extends says that a file may gather beside Path by what is put at its end, and then be renamed to Path; only where that was asked for.
	Extends bool `json:"extends,omitempty"`
}

// TrustRequest trusts the host key or certificate that has this fingerprint, if the server shows it, and forgets any other of
// that server. Without a fingerprint it trusts what a server shows of which nothing is trusted yet.
type TrustRequest struct {
	Name        string `json:"name"`
	Environment string `json:"environment,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"` // "SHA256:...", or as openssl prints it
	DryRun      bool   `json:"dryRun,omitempty"`      // ask the server, tell what would be trusted, and trust nothing
}

// TrustAnswer is a host key or certificate that is trusted now.
type TrustAnswer struct {
	Address     string `json:"address"`
	KeyType     string `json:"keyType,omitempty"` // such as "ssh-ed25519", or "certificate"
	Fingerprint string `json:"fingerprint"`
	// Certificate is what a certificate says of itself; nil for a host key.
	Certificate *Certificate `json:"certificate,omitempty"`
	// Forgotten is the fingerprints of the keys that were trusted before in its place.
	Forgotten []string `json:"forgotten,omitempty"`
	// Already says that it was trusted before, and nothing changed.
	Already bool `json:"already,omitempty"`
	// Affects are the mounts that log in to that server, where nothing was done, but asked what would be.
	Affects []string `json:"affects,omitempty"`
}

// What is "ssh-ed25519 key" and the like, or "certificate", for sentences.
func (a TrustAnswer) What() string {
	if a.Certificate != nil {
		return "certificate"
	}
	return a.KeyType + " key"
}

// Certificate is what the certificate of an FTPS server says of itself. Whether that is true is another question.
type Certificate struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Names     []string  `json:"names,omitempty"` // hosts and addresses that it is for
}

// QueueRequest asks what is owed to servers, of one connection or of all; without Environment, of Name in every environment.
type QueueRequest struct {
	Name        string `json:"name,omitempty"`
	Environment string `json:"environment,omitempty"`
}

// Due is one thing that was acknowledged here and that a server does not have yet.
type Due struct {
	Name        string    `json:"name"`        // of the connection, or the directory of an ad-hoc mount
	Environment string    `json:"environment"` // "" for an ad-hoc mount
	ID          uint64    `json:"id"`          // tells it from all others of the connection, for good
	Kind        string    `json:"kind"`        // put, mkdir, rmdir, remove, rename, setattr, symlink or link
	Path        Name      `json:"path"`
	To          *Name     `json:"to,omitempty"` // of a rename and a link
	Size        int64     `json:"size"`
	Since       time.Time `json:"since"`
	State       DueState  `json:"state"`
	Tries       int       `json:"tries,omitempty"`  // in vain, since it last moved
	Reason      string    `json:"reason,omitempty"` // why it is not there yet
	Cause       string    `json:"cause,omitempty"`  // the stable word for that, as test tells it
	Target      string    `json:"target"`           // the server, the login, the directory and the environment that it is owed to
}

// DueState is what is being done about something that is owed.
type DueState string

const (
	DueWaiting  DueState = "waiting"  // for its turn, or for the server
	DueSending  DueState = "sending"  // it is on its way
	DueHeld     DueState = "held"     // until a person decides; Reason says why
	DueUnserved DueState = "unserved" // nothing mounted leads to its target
)

// QueueChange names what is owed by one connection: all of it, or what has one of these IDs. Without Environment it is the first
// active one.
type QueueChange struct {
	Name        string   `json:"name"`
	Environment string   `json:"environment,omitempty"`
	IDs         []uint64 `json:"ids,omitempty"`    // none: all
	DryRun      bool     `json:"dryRun,omitempty"` // count them, and change nothing
}

// QueueChanged tells how many were changed, and of what is owed no more where its content lies now.
type QueueChanged struct {
	Changed int      `json:"changed"`
	Kept    []string `json:"kept,omitempty"`
}

// QueueItem names one thing that is owed.
type QueueItem struct {
	Name        string `json:"name"`
	Environment string `json:"environment,omitempty"`
	ID          uint64 `json:"id"`
}

// MetricsRequest asks for the figures that monitoring wants.
type MetricsRequest struct {
	Text bool `json:"text,omitempty"` // as Prometheus reads them
}

// MetricsAnswer is those figures.
type MetricsAnswer struct {
	Metrics []Metric `json:"metrics"`
	// Text is all of them, and those of the process, in Prometheus' text format 0.0.4.
	Text string `json:"text,omitempty"`
}

// Metric is one figure, of each connection that has it, or of the daemon.
type Metric struct {
	Name    string   `json:"name"` // as Prometheus wants it
	Type    string   `json:"type"` // gauge, counter or histogram
	Help    string   `json:"help"`
	Samples []Sample `json:"samples"`
}

// Sample is one value: of a connection, or of the daemon where Connection is empty.
type Sample struct {
	Connection  string            `json:"connection"`
	Environment string            `json:"environment"` // "" for an ad-hoc mount
	Labels      map[string]string `json:"labels,omitempty"`
	Value       float64           `json:"value"`           // the sum of a histogram
	Count       uint64            `json:"count,omitempty"` // of what a histogram has seen
}

// CacheRequest asks what is kept of what was read, of one mounted connection or of all; without Environment, of Name in the
// first active one.
type CacheRequest struct {
	Name        string `json:"name,omitempty"`
	Environment string `json:"environment,omitempty"`
}

// CacheAnswer is the cache and what each mounted connection has in it.
type CacheAnswer struct {
	Dir         string   `json:"dir"`   // "" if nothing can be kept
	Files       int      `json:"files"` // of all connections, also of those that are not mounted
	Bytes       int64    `json:"bytes"`
	Size        int64    `json:"size"` // how many bytes it may hold
	Connections []Cached `json:"connections"`
}

// Cached is what is kept of one connection's files, and how it was read since it was mounted. What the kernel answers by
// itself is not counted.
type Cached struct {
	Name        string `json:"name"`
	Environment string `json:"environment"` // "" for an ad-hoc mount
	Files       int    `json:"files"`
	Bytes       int64  `json:"bytes"`
	Hits        int64  `json:"hits"`       // reads that were answered from here
	Misses      int64  `json:"misses"`     // reads that waited for the server
	FromCache   int64  `json:"fromCache"`  // bytes that hits were given
	FromServer  int64  `json:"fromServer"` // bytes of content that came from the server
	Prefetched  int64  `json:"prefetched"` // bytes among these that were fetched ahead of a reader
	Wasted      int64  `json:"wasted"`     // bytes among those that nobody had read when the file was closed
}

// CacheChange names what is to be dropped or fetched: a file, or all below a directory.
type CacheChange struct {
	FileRequest
	DryRun bool `json:"dryRun,omitempty"` // count it, and drop or fetch nothing
}

// Dropped is what was kept and is no more.
type Dropped struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// Warming is how far cache-warm has come; the last one is all that it did.
type Warming struct {
	FoundFiles int    `json:"foundFiles"` // so far: directories are listed meanwhile
	FoundBytes int64  `json:"foundBytes"`
	Files      int    `json:"files"` // that are here
	Bytes      int64  `json:"bytes"`
	Here       int    `json:"here"`             // files among them that were here before
	Failed     int    `json:"failed"`           // files and directories that could not be read
	Reason     string `json:"reason,omitempty"` // of the first of these
}
