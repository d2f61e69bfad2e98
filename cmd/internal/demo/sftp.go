package demo

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// startSFTP serves the files of this machine, beginning in dir, to whoever knows the password, and returns the fingerprint of
// its host key too.
func startSFTP(password, dir string, log *slog.Logger) (*server, string, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, "", err
	}
	config := &ssh.ServerConfig{
		PasswordCallback: func(meta ssh.ConnMetadata, given []byte) (*ssh.Permissions, error) {
			if knows(meta.User(), string(given), password) {
				return nil, nil
			}
			return nil, errors.New("refused")
		},
	}
	config.AddHostKey(signer)
	s, err := listen(func(_ context.Context, conn net.Conn) error { return serveConn(conn, config, dir) }, log)
	return s, ssh.FingerprintSHA256(signer.PublicKey()), err
}

// serveConn serves the sftp subsystem on every session of one connection.
func serveConn(conn net.Conn, config *ssh.ServerConfig, dir string) error {
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil { // of the handshake
		return err
	}
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	var sessions sync.WaitGroup
	defer sessions.Wait()
	sessions.Go(func() { answer(requests) })
	for offered := range channels {
		if offered.ChannelType() != "session" {
			if err := offered.Reject(ssh.UnknownChannelType, "sftp only"); err != nil {
				return err
			}
			continue
		}
		channel, requests, err := offered.Accept()
		if err != nil {
			return err
		}
		sessions.Go(func() { serveSession(channel, requests, dir) })
	}
	return nil
}

// answer refuses requests; a keepalive wants no more than that.
func answer(requests <-chan *ssh.Request) {
	for r := range requests {
		if r.WantReply {
			_ = r.Reply(false, nil) // fails only where nobody is there any more
		}
	}
}

func serveSession(channel ssh.Channel, requests <-chan *ssh.Request, dir string) {
	defer channel.Close()
	for r := range requests {
		isSFTP := r.Type == "subsystem" && len(r.Payload) > 4 && string(r.Payload[4:]) == "sftp"
		if r.WantReply {
			_ = r.Reply(isSFTP, nil) // as above
		}
		if !isSFTP {
			continue
		}
		go answer(requests) // ends when the channel does
		s, err := sftp.NewServer(channel, sftp.WithServerWorkingDirectory(dir))
		if err != nil {
			return
		}
		if err := s.Serve(); err != nil && !errors.Is(err, io.EOF) {
			return
		}
		return
	}
}
