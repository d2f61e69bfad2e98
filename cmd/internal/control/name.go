package control

import (
	"encoding/json"
	"unicode/utf8"
)

// Name is the name of a file, or a link's content, as the bytes that it is. In JSON it is a string where the bytes are
// UTF-8, and {"bytes": "BASE64"} where they are not, so that every name survives the way there and back.
type Name string

type nameBytes struct {
	Bytes []byte `json:"bytes"`
}

// MarshalJSON writes a string or the object.
func (n Name) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(n)) {
		return json.Marshal(string(n))
	}
	return json.Marshal(nameBytes{[]byte(n)})
}

// UnmarshalJSON takes either.
func (n *Name) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		var raw nameBytes
		if err := json.Unmarshal(b, &raw); err != nil {
			return err
		}
		*n = Name(raw.Bytes)
		return nil
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	*n = Name(text)
	return nil
}
