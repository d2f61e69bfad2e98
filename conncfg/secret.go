package conncfg

import (
	"encoding"
	"encoding/json"
	"fmt"
	"log/slog"
)

// Secret is a password or passphrase that no formatting, logging or encoding prints. Only Reveal gives it out, so that a
// search for Reveal finds every place a secret leaves by. The zero value is the empty secret.
type Secret struct{ text string }

// NewSecret returns text as a Secret.
func NewSecret(text string) Secret { return Secret{text} }

// Reveal returns the text itself, for the wire and for nothing else.
func (s Secret) Reveal() string { return s.text }

// Empty reports whether there is nothing to keep.
func (s Secret) Empty() bool { return s.text == "" }

const masked = "********"

// String returns asterisks, or "" for an empty secret.
func (s Secret) String() string {
	if s.Empty() {
		return ""
	}
	return masked
}

// Format prints the asterisks for every verb and flag, %#v and %x included.
func (s Secret) Format(f fmt.State, verb rune) { fmt.Fprint(f, s.String()) }

// LogValue keeps slog from reaching inside.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON returns null: a secret is never returned, not even its length.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

// MarshalText returns nothing, for TOML and whatever else encodes text.
func (s Secret) MarshalText() ([]byte, error) { return nil, nil }

// UnmarshalText takes the text of a definition or request.
func (s *Secret) UnmarshalText(text []byte) error {
	s.text = string(text)
	return nil
}

var (
	_ fmt.Formatter            = Secret{}
	_ slog.LogValuer           = Secret{}
	_ json.Marshaler           = Secret{}
	_ encoding.TextMarshaler   = Secret{}
	_ encoding.TextUnmarshaler = (*Secret)(nil)
)
