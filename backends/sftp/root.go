package sftp

// Root returns the absolute path of the working directory as the server named it at the last login; "" before the first.
// It never blocks.
func (b *Backend) Root() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current == nil {
		return ""
	}
	return b.current.root
}
