package sftp

import "testing"

// TestEvenPartsAreFewAndLong: OpenSSH lets 261,120 bytes be asked for at a time, and blocks are powers of two.
func TestEvenPartsAreFewAndLong(t *testing.T) {
	for _, test := range []struct{ n, most, want int }{
		{0, 261120, 261120}, {4096, 261120, 261120}, {261120, 261120, 261120},
		{256 << 10, 261120, 128 << 10}, {1 << 20, 261120, 212992}, {100, 30, 30}, {3, 1, 1}, {65537, 32768, 24576},
	} {
		got := even(test.n, test.most)
		if got != test.want || got > test.most {
			t.Errorf("%d bytes by %d: parts of %d, want %d", test.n, test.most, got, test.want)
		}
	}
}
