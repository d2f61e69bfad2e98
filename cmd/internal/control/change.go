package control

import (
	"time"

	"pierfs/conncfg"
)

// The verbs that change definitions, and those that tell of it. All changes answer alike: what differs, whom it affects, and how
// what was touched stands afterwards; with DryRun nothing is done but telling.
var (
	Create   = Verb[CreateRequest, ChangeAnswer]{Name: "create", Within: 5 * time.Minute}
	Edit     = Verb[EditRequest, ChangeAnswer]{Name: "edit", Within: 5 * time.Minute}
	Copy     = Verb[CopyRequest, ChangeAnswer]{Name: "copy", Within: 5 * time.Minute}
	Replace  = Verb[ReplaceRequest, ChangeAnswer]{Name: "replace", Within: 5 * time.Minute}
	Delete   = Verb[DeleteRequest, ChangeAnswer]{Name: "delete", Within: 5 * time.Minute}
	Read     = Verb[ReadRequest, ReadAnswer]{Name: "read"}
	Vars     = Verb[VarsRequest, VarsAnswer]{Name: "vars"}
	SetVar   = Verb[SetVarRequest, ChangeAnswer]{Name: "vars-set", Within: 5 * time.Minute}
	Extract  = Verb[ExtractRequest, ChangeAnswer]{Name: "vars-extract", Within: 5 * time.Minute}
	EnvAdd   = Verb[EnvRequest, ChangeAnswer]{Name: "env-create", Within: 5 * time.Minute}
	EnvUse   = Verb[EnvRequest, ChangeAnswer]{Name: "env-use", Within: 5 * time.Minute}
	History  = Verb[HistoryRequest, HistoryAnswer]{Name: "history"}
	Rollback = Verb[RollbackRequest, ChangeAnswer]{Name: "rollback", Within: 5 * time.Minute}
	Verify   = Verb[VerifyRequest, VerifyAnswer]{Name: "audit-verify"}
)

// changes describes them.
func changes() []Description {
	return []Description{Create.Describe(), Edit.Describe(), Copy.Describe(), Delete.Describe(), Read.Describe(), Vars.Describe(), SetVar.Describe(),
		Extract.Describe(), EnvAdd.Describe(), EnvUse.Describe(), History.Describe(), Rollback.Describe(), Verify.Describe(),
		Export.Describe(), Import.Describe(), Replace.Describe(), Pending.Describe(), Approve.Describe(), Reject.Describe()}
}

// ChangeOptions go with every change.
type ChangeOptions struct {
	DryRun bool   `json:"dryRun,omitempty"` // tell, and change nothing
	Force  bool   `json:"force,omitempty"`  // also where files are open or something is owed
	Keep   bool   `json:"keep,omitempty"`   // what is owed stays in the journal, owed to where it was
	Reason string `json:"reason,omitempty"` // for the log
}

// ChangeAnswer is what a change did, or would do.
type ChangeAnswer struct {
	Revision uint64 `json:"revision"` // its number in the log; 0 if nothing was written
	// Pending is the number under which the change waits for a second person; nothing of it is in force then.
	Pending  string               `json:"pending,omitempty"`
	Changes  []conncfg.Difference `json:"changes"`
	Impact   []Impact             `json:"impact"`
	Findings []conncfg.Finding    `json:"findings"` // about the connections that are affected, as they are then
	// Apply is what the daemon did about it; nil if nothing was written.
	Apply *ApplyAnswer `json:"apply,omitempty"`
}

// Impact is a connection in an environment that a change affects, as it stood before.
type Impact struct {
	conncfg.Affected
	State     State  `json:"state,omitempty"` // "" where it is not to be mounted on this machine
	Dir       string `json:"dir,omitempty"`
	OpenFiles int    `json:"openFiles,omitempty"`
	OwedFiles int    `json:"owedFiles,omitempty"`
	// Users are processes that have files open there, or stand there; Units are those of systemd that want it mounted.
	Users []User   `json:"users,omitempty"`
	Units []string `json:"units,omitempty"`
}

// User is a process that uses a mount.
type User struct {
	PID  int    `json:"pid"`
	UID  uint32 `json:"uid"`
	Exe  string `json:"exe,omitempty"`
	Path string `json:"path"`
}

// Setting gives a field a value. A secret travels as Secret, and is sealed before it is written.
type Setting struct {
	Environment string `json:"environment,omitempty"` // "" for all
	Field       string `json:"field"`
	Value       string `json:"value,omitempty"`
	Secret      Sealed `json:"secret,omitzero"`
	Unset       bool   `json:"unset,omitempty"`
}

// CreateRequest makes a definition: of a file's text, of settings, or of both.
type CreateRequest struct {
	Name       string    `json:"name"`
	Definition Sealed    `json:"definition,omitzero"`
	Set        []Setting `json:"set,omitempty"`
	ChangeOptions
}

// EditRequest changes settings of a definition, or puts a whole text in its place.
type EditRequest struct {
	Name       string    `json:"name"`
	Definition Sealed    `json:"definition,omitzero"`
	Was        string    `json:"was,omitempty"` // what Read told of the text that was edited; "" does not care
	Set        []Setting `json:"set,omitempty"`
	ChangeOptions
}

// CopyRequest makes a definition like another one, or gives one another name.
type CopyRequest struct {
	Name string `json:"name"`
	To   string `json:"to"`
	Move bool   `json:"move,omitempty"`
	ChangeOptions
}

// ReplaceRequest removes a definition, and has another one take its place.
type ReplaceRequest struct {
	Name string `json:"name"`
	To   string `json:"to"`
	ChangeOptions
}

// DeleteRequest removes a definition.
type DeleteRequest struct {
	Name string `json:"name"`
	ChangeOptions
}

// ReadRequest asks for a definition as it is written, to edit it.
type ReadRequest struct {
	Name string `json:"name"`
}

// ReadAnswer is the text of a definition. One that holds a secret literally is not told.
type ReadAnswer struct {
	Name string `json:"name"`
	File string `json:"file"`
	Text string `json:"text"`
	Was  string `json:"was"` // for EditRequest
}

// VarsRequest asks for the variables of an environment and the global ones; without Environment, of all.
type VarsRequest struct {
	Environment string `json:"environment,omitempty"`
}

// VarsAnswer is variables, in the order in which they count: of one name the first that applies in an environment does.
type VarsAnswer struct {
	Environments []Environment `json:"environments"`
	Variables    []Variable    `json:"variables"`
}

// Variable is one variable as it is written, without the value of a secret.
type Variable struct {
	Name        string `json:"name"`
	Environment string `json:"environment"` // "" for a global one
	Secret      bool   `json:"secret"`
	Source      string `json:"source"`
	// RotatedAt is when its value was changed last, where that is written, and RotateBy when it must be.
	RotatedAt time.Time     `json:"rotatedAt,omitzero"`
	RotateBy  time.Time     `json:"rotateBy,omitzero"`
	File      string        `json:"file"`
	Line      int           `json:"line"`
	UsedBy    []conncfg.Use `json:"usedBy"` // where this one is what counts
}

// SetVarRequest gives a variable a value, or removes it.
type SetVarRequest struct {
	Name        string `json:"name"`
	Environment string `json:"environment,omitempty"` // "" for a global one
	Secret      bool   `json:"secret,omitempty"`
	Value       Sealed `json:"value,omitzero"`
	Unset       bool   `json:"unset,omitempty"`
	// RotateAfter is for how many days a secret may stay; nil leaves that as it is, and 0 is for ever.
	RotateAfter *int `json:"rotateAfter,omitempty"`
	ChangeOptions
}

// ExtractRequest takes the secrets that stand literally in a definition out of it.
type ExtractRequest struct {
	Name string `json:"name"`
	ChangeOptions
}

// EnvRequest makes an environment, of a file's text if there is one, or makes environments the active ones of this machine.
type EnvRequest struct {
	Names      []string `json:"names"`
	Definition Sealed   `json:"definition,omitzero"`
	ChangeOptions
}

// HistoryRequest asks for the changes of a connection, a file below the configuration directory, or of all.
type HistoryRequest struct {
	Subject string `json:"subject,omitempty"`
	Last    int    `json:"last,omitempty"` // so many at most; 0 is 100
}

// HistoryAnswer is changes, the latest last.
type HistoryAnswer struct {
	Revisions []Revision `json:"revisions"`
}

// Revision is one change in the log.
type Revision struct {
	Revision uint64    `json:"revision"`
	Time     time.Time `json:"time"`
	UID      uint32    `json:"uid"`
	User     string    `json:"user,omitempty"`
	PID      int32     `json:"pid,omitempty"`
	Exe      string    `json:"exe,omitempty"`
	// Approver let it come into force, under the number Proposal, where it needed a second person.
	ApproverUID *uint32              `json:"approverUid,omitempty"`
	Approver    string               `json:"approver,omitempty"`
	Proposal    string               `json:"proposal,omitempty"`
	Verb        string               `json:"verb"`
	Subject     string               `json:"subject,omitempty"`
	Reason      string               `json:"reason,omitempty"`
	Files       []string             `json:"files"`
	Changes     []conncfg.Difference `json:"changes"`
	Hash        string               `json:"hash"`
}

// RollbackRequest makes a connection or file what it was after a revision.
type RollbackRequest struct {
	Subject  string `json:"subject"`
	Revision uint64 `json:"revision"`
	ChangeOptions
}

// VerifyRequest asks whether the log is what was written. Head is the hash of an entry that was kept elsewhere.
type VerifyRequest struct {
	Head string `json:"head,omitempty"`
}

// VerifyAnswer is what was found.
type VerifyAnswer struct {
	OK      bool   `json:"ok"`
	Entries int    `json:"entries"`
	Head    string `json:"head"`
	Broken  string `json:"broken,omitempty"`
}

// Export asks for definitions as they can leave this machine; Import brings such.
var (
	Export = Verb[ExportRequest, ExportAnswer]{Name: "export"}
	Import = Upload[ImportRequest, ImportAnswer]{Name: "import"}
)

// ExportRequest names the connections; without any, all. One that does not exist fails the call.
type ExportRequest struct {
	Names []string `json:"names,omitempty"`
}

// ExportAnswer is definitions without any secret, and what they need besides themselves.
type ExportAnswer struct {
	Connections  []Exported           `json:"connections"`
	Dependencies []conncfg.Dependency `json:"dependencies"`
}

// Exported is one definition, as conncfg.Portable writes it.
type Exported struct {
	Name       string `json:"name"`
	Definition string `json:"definition"`
}

// ImportRequest says how definitions are taken over; they follow as a JSON list of Imported. The archive has been opened by the
// hand: the daemon takes in text alone.
type ImportRequest struct {
	Overwrite      bool              `json:"overwrite,omitempty"`
	Rename         string            `json:"rename,omitempty"` // of the only one
	MapEnv         map[string]string `json:"mapEnv,omitempty"`
	ExcludeMissing bool              `json:"excludeMissing,omitempty"`
	ChangeOptions
}

// Imported is one definition, as a file.
type Imported struct {
	Name       string          `json:"name"`
	Definition Sealed          `json:"definition"`
	Blanks     []conncfg.Blank `json:"blanks,omitempty"`
	// Set is secrets that another program kept, for the daemon to seal: none of them stands in the definition.
	Set []Setting `json:"set,omitempty"`
}

// ImportAnswer is the plan, and what came of it. Nothing is written unless every check is passed.
type ImportAnswer struct {
	Checks      []Check              `json:"checks"`
	Connections []ImportedAs         `json:"connections"`
	Missing     []conncfg.Dependency `json:"missing"` // what is needed and not here
	// Unresolved is what has to be given again, by hand.
	Unresolved []conncfg.Blank `json:"unresolvedReferences"`
	Notes      []string        `json:"notes"`
	Change     ChangeAnswer    `json:"change"`
}

// Check is one question that an import is asked before anything is written.
type Check struct {
	Check  string   `json:"check"` // "format", "conflict", "dependencies" or "definitions"
	OK     bool     `json:"ok"`
	Detail []string `json:"detail,omitempty"`
	Hint   string   `json:"hint,omitempty"`
	Code   Code     `json:"code,omitempty"` // that the import ends with
}

// ImportedAs is what becomes of one definition.
type ImportedAs struct {
	Name   string `json:"name"`
	As     string `json:"as"`
	Change string `json:"change"` // "added", "replaced" or "unchanged"
}
