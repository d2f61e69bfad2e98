package dial

import (
	"slices"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/backendtest"
	"pierfs/backends/mem"
	"pierfs/conncfg"
)

func TestContractBehindAllWrappers(t *testing.T) {
	target := conncfg.Target{RetryCount: 3, SocketTimeout: 10 * time.Second}
	backendtest.Run(t, func(t *testing.T) backends.Backend {
		server := mem.New(mem.Options{WorkingDir: "srv/data"})
		return wrap(server, target, Options{}, func() []string { return []string{"/srv/data"} })
	}, backendtest.Options{Beside: true, Confined: true})
}

func TestContractBehindAllWrappersInAnEncoding(t *testing.T) {
	target := conncfg.Target{RetryCount: 3, SocketTimeout: 10 * time.Second, Encoding: "windows-1252"}
	names, err := namesOf(target)
	if err != nil {
		t.Fatal(err)
	}
	// What the encoding cannot write, of the suite's names and links.
	refused := slices.DeleteFunc(append(backendtest.Names(), "latin1-\xe4"), func(name string) bool {
		_, err := names.encode(name)
		return err == nil
	})
	backendtest.Run(t, func(t *testing.T) backends.Backend {
		server := mem.New(mem.Options{WorkingDir: "srv/data"})
		return wrap(names.translate(server), target, Options{}, func() []string { return []string{"/srv/data"} })
	}, backendtest.Options{Beside: true, Confined: true, Refused: refused})
}
