package mem_test

import (
	"testing"

	"pierfs/backends"
	"pierfs/backends/backendtest"
	"pierfs/backends/mem"
)

func TestContract(t *testing.T) {
	for name, change := range map[string]func(*backends.Caps){
		"able": nil,
		"poor": func(c *backends.Caps) {
			*c = backends.Caps{Protocol: "mem", TimeUnit: c.TimeUnit, MaxRead: c.MaxRead, MaxWrite: c.MaxWrite}
		},
		"append": func(c *backends.Caps) { c.RandomWrite, c.Exclusive, c.SetOwner = false, false, false },
	} {
		t.Run(name, func(t *testing.T) {
			backendtest.Run(t, func(t *testing.T) backends.Backend {
				return mem.New(mem.Options{Change: change, WorkingDir: "srv/data"})
			}, backendtest.Options{Beside: name != "poor"})
		})
	}
	t.Run("FTP", func(t *testing.T) {
		backendtest.Run(t, func(t *testing.T) backends.Backend { return mem.New(mem.FTP(nil)) }, backendtest.Options{})
	})
}
