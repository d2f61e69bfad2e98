package dial

import (
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
	}, backendtest.Options{Confined: true})
}
