package charset

import "testing"

func BenchmarkDecode(b *testing.B) {
	e, _ := ByName("shift_jis")
	for name, wire := range map[string]string{"plain": "plain-name-0001.txt", "japanese": "\x95\x5c\x8e\xa6-0001.txt", "undecodable": "\x95\x20\xff\xff-0001.txt"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.Decode(wire)
			}
		})
	}
}
