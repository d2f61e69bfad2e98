package conncfg

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Severity says what a Finding means for the connection it is about.
type Severity string

const (
	Error   Severity = "error"   // the connection cannot be used as it is written
	Warning Severity = "warning" // it can, and somebody should know
)

// Finding is one thing that is wrong or odd about what an operator wrote: where it stands, what it is, and the way out.
// Empty members mean that it is about more than one file, field or environment. A Finding never carries a secret: the
// Value of a secret field stays empty.
type Finding struct {
	Severity    Severity `json:"severity"`
	Code        Code     `json:"code"`
	File        string   `json:"file,omitempty"`
	Line        int      `json:"line,omitempty"` // from 1; 0 where there is none, such as for a field that is missing
	Connection  string   `json:"connection,omitempty"`
	Environment string   `json:"environment,omitempty"` // "" where it holds in every environment
	Field       string   `json:"field,omitempty"`
	Value       string   `json:"value,omitempty"`
	Message     string   `json:"message"`
	Hint        string   `json:"hint,omitempty"` // what to write or to run instead
}

// String returns the finding as one line of printable text: where, how bad, what about, what, the way out, and the code to
// look it up by.
func (f Finding) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			b.WriteString(":" + strconv.Itoa(f.Line))
		}
		b.WriteString(": ")
	}
	b.WriteString(string(f.Severity) + ": ")
	if f.Connection != "" {
		b.WriteString(f.Connection)
		if f.Environment != "" {
			b.WriteString(" in " + f.Environment)
		}
		b.WriteString(": ")
	} else if f.Environment != "" {
		b.WriteString(f.Environment + ": ")
	}
	if f.Field != "" {
		b.WriteString(f.Field)
		if f.Value != "" {
			b.WriteString(" = " + strconv.Quote(f.Value))
		}
		b.WriteString(": ")
	}
	b.WriteString(f.Message)
	if f.Hint != "" {
		b.WriteString("; " + f.Hint)
	}
	fmt.Fprintf(&b, " [%s]", f.Code)
	return printable(b.String())
}

// printable escapes what would break a line or drive a terminal: names and keys come from outside.
func printable(s string) string {
	if !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unprintable(r) {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// HasErrors reports whether any of the findings is an Error.
func HasErrors(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == Error })
}

// tidy sorts findings by place and drops repetitions, so that two runs over the same files print the same.
func tidy(findings []Finding) []Finding {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Connection, b.Connection), cmp.Compare(a.Field, b.Field),
			cmp.Compare(a.Environment, b.Environment), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(findings)
}

// Code names a kind of finding for scripts. docs/DEFINITIONS.md explains each.
type Code string

const (
	// About files.
	CodeRead         Code = "READ"          // a file or folder cannot be read
	CodeNoConfig     Code = "NO_CONFIG"     // the configuration directory does not exist
	CodeSymlink      Code = "SYMLINK"       // a link that leaves the configuration directory, or leads nowhere
	CodeWritable     Code = "WRITABLE"      // everybody may write it
	CodeOwner        Code = "OWNER"         // it belongs to somebody who may not write what stands there
	CodeSecretMode   Code = "SECRET_MODE"   // a secret stands in a file that others may read
	CodeSyntax       Code = "SYNTAX"        // not TOML
	CodeUnknownKey   Code = "UNKNOWN_KEY"   // no such field
	CodeDuplicateKey Code = "DUPLICATE_KEY" // written twice
	CodeWrongType    Code = "WRONG_TYPE"    // a number where a text belongs, and so on
	CodeWrongPlace   Code = "WRONG_PLACE"   // a field that an environment cannot override
	CodeSchema       Code = "SCHEMA"        // written for a newer version of this program

	// About names.
	CodeNameInvalid  Code = "NAME_INVALID"
	CodeNameMismatch Code = "NAME_MISMATCH" // name is not that of the file
	CodeNameTaken    Code = "NAME_TAKEN"
	CodeNameCase     Code = "NAME_CASE" // names that differ by upper and lower case alone

	// About fields.
	CodeMissing        Code = "MISSING" // a required field
	CodeInvalid        Code = "INVALID" // a value that the field cannot take
	CodeRange          Code = "RANGE"
	CodeAdvice         Code = "ADVICE" // allowed, and seldom wise
	CodeHostInvalid    Code = "HOST_INVALID"
	CodePortMismatch   Code = "PORT_MISMATCH"
	CodeAnonymous      Code = "ANONYMOUS"
	CodeWholeServer    Code = "WHOLE_SERVER" // workingDir is "/"
	CodeWeakTLS        Code = "WEAK_TLS"
	CodeTLSMode        Code = "TLS_MODE" // implicit and explicit
	CodeCleartext      Code = "CLEARTEXT"
	CodeIgnored        Code = "IGNORED"       // means nothing for this protocol, or beside another field
	CodePair           Code = "PAIR"          // one of two fields that only work together
	CodeLegacy         Code = "LEGACY"        // legacyAlgorithms is on
	CodeNoCredential   Code = "NO_CREDENTIAL" // nothing proves who logs in
	CodeInPlace        Code = "IN_PLACE"      // uploads without a temporary name
	CodeLiteralSecret  Code = "LITERAL_SECRET"
	CodeFileMissing    Code = "FILE_MISSING"
	CodeFileMode       Code = "FILE_MODE"    // a key or secret that others may read
	CodeCertExpires    Code = "CERT_EXPIRES" // in 30 days or less
	CodeCertExpired    Code = "CERT_EXPIRED"
	CodeSecretAge      Code = "SECRET_AGE" // a secret that must be changed, soon or long since
	CodeMountTaken     Code = "MOUNT_TAKEN"
	CodeMountNested    Code = "MOUNT_NESTED"
	CodeSameEndpoint   Code = "SAME_ENDPOINT"
	CodePolicy         Code = "POLICY"     // what the environment asks of its connections
	CodeRestricted     Code = "RESTRICTED" // not for this caller
	CodePasswordPublic Code = "PASSWORD_PUBLIC"

	// About environments and variables.
	CodeActiveDefault      Code = "ACTIVE_DEFAULT" // nothing says which environments are active
	CodeUnknownEnvironment Code = "UNKNOWN_ENVIRONMENT"
	CodeUnknownConnection  Code = "UNKNOWN_CONNECTION"
	CodeVariableSyntax     Code = "VARIABLE_SYNTAX"
	CodeVariableUndefined  Code = "VARIABLE_UNDEFINED"
	CodeVariableCycle      Code = "VARIABLE_CYCLE"
	CodeVariableMisplaced  Code = "VARIABLE_MISPLACED"
	CodeVariableSecret     Code = "VARIABLE_SECRET" // a secret in a field that lists and logs show
	CodeSource             Code = "SOURCE"          // a variable's source gives nothing
)
