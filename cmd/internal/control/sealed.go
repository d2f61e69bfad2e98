package control

import (
	"encoding/json"
	"fmt"
	"log/slog"
)

// Sealed is a text that a request carries to the daemon and that goes nowhere else: a password, or a definition that may
// hold one. JSON encodes it, for that is its way to the daemon; no formatting and no log prints it. An answer never has one.
type Sealed struct{ text string }

// Seal returns text sealed.
func Seal(text string) Sealed { return Sealed{text} }

// Open returns the text.
func (s Sealed) Open() string { return s.text }

// Format prints asterisks for every verb.
func (s Sealed) Format(f fmt.State, _ rune) { fmt.Fprint(f, "********") }

// LogValue keeps slog from reaching inside.
func (s Sealed) LogValue() slog.Value { return slog.StringValue("********") }

// MarshalJSON writes the text: requests are its one way out of the hand.
func (s Sealed) MarshalJSON() ([]byte, error) { return json.Marshal(s.text) }

// UnmarshalJSON takes the text.
func (s *Sealed) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &s.text) }

// IsZero lets omitzero leave an empty one out.
func (s Sealed) IsZero() bool { return s.text == "" }
