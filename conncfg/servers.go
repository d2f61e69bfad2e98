package conncfg

import "slices"

// Server is one that a connection leads to, as far as that is known without asking a source.
type Server struct {
	Environment string
	Address     string // HOST:PORT
	Protocol    Protocol
}

// Servers returns those of a connection whose word for who they are must be believed by somebody: in the environments that are active, have a file
// or are named in the definition, those that speak SFTP or FTPS and of which the definition itself does not name the one key or certificate.
func (c *Config) Servers(conn *Connection) (all []Server) {
	k := &checker{config: c, expanders: map[string]*expander{}}
	for _, env := range k.environmentsOf(conn) {
		e := conn.evaluate(env, k.expander(env))
		t := e.target
		if e.unknown["host"] || e.unknown["port"] || e.unknown["fallbackHosts"] || t.Protocol == FTP || t.SSH.HostKey != "" || t.TLS.TrustCert != "" || HasErrors(e.findings) {
			continue
		}
		for _, host := range t.Hosts() {
			if s := (Server{env, host.Address(), t.Protocol}); !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	return all
}
