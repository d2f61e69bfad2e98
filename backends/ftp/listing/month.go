package listing

import (
	"strings"
	"unicode/utf8"
)

// months are what a month may be called, in lower case and without a dot: English first, then German, Dutch and the
// Scandinavian ones, French, Italian, Spanish and Portuguese, Turkish, Polish and Czech, Russian. Letters beyond ASCII stand in UTF-8
// and, for languages of the west, in their old encoding as well. Where two languages mean different months by a word, it is left out.
var months = [12][]string{
	{"jan", "january", "januar", "janv", "gen", "ene", "oca", "sty", "led", "янв"},
	{"feb", "february", "februar", "févr", "fév", "f\xe9vr", "f\xe9v", "fev", "şub", "\xfeub", "\xdeub", "lut", "úno", "\xfano", "фев"},
	{"mar", "march", "mär", "m\xe4r", "mrz", "märz", "mrt", "mars", "bře", "мар"},
	{"apr", "april", "avril", "avr", "abr", "nis", "kwi", "dub", "апр"},
	{"may", "mai", "mei", "maj", "mag", "maggio", "kvě", "мая", "май"},
	{"jun", "june", "juni", "juin", "giu", "haz", "cze", "čvn", "июн"},
	{"jul", "july", "juli", "juil", "lug", "tem", "lip", "čvc", "июл"},
	{"aug", "august", "août", "ao\xfbt", "ago", "ağu", "a\xf0u", "sie", "srp", "авг"},
	{"sep", "sept", "september", "set", "eyl", "wrz", "zář", "сен"},
	{"oct", "october", "okt", "oktober", "ott", "out", "eki", "paź", "říj", "окт"},
	{"nov", "november", "kas", "lis", "ноя"},
	{"dec", "december", "dez", "des", "déc", "d\xe9c", "dic", "ara", "gru", "pro", "дек"},
}

// monthOf returns the number of a month by its name, or as the east writes it: "11月", "11월".
func monthOf(s string) (int, bool) {
	for _, suffix := range []string{"月", "월"} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			month, ok := twoDigits(n)
			return month, ok
		}
	}
	s = strings.TrimSuffix(s, ".")
	if len(s) == 0 || len(s) > 12 {
		return 0, false
	}
	lower := lowerCase(s)
	for i, names := range months {
		for _, name := range names {
			if name == lower {
				return i + 1, true
			}
		}
	}
	return 0, false
}

// lowerCase is strings.ToLower that leaves bytes alone which are no UTF-8, where they are few languages' letters.
func lowerCase(s string) string {
	if utf8.ValidString(s) {
		return strings.ToLower(s)
	}
	lower := []byte(s)
	for i, c := range lower {
		if c >= 'A' && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return string(lower)
}
