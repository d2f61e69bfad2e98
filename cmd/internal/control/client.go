package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"syscall"
	"time"
)

// Client speaks to one daemon. Its zero value is of no use; NewClient makes one. It may be used from many goroutines.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a Client of the daemon of a runtime directory. Nothing is dialled before the first call.
func NewClient(runtimeDir string) *Client {
	socket := SocketPath(runtimeDir)
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, "unix", socket)
			if err != nil {
				return nil, err
			}
			if err := checkDaemon(conn, os.Geteuid()); err != nil {
				conn.Close()
				return nil, err
			}
			open, closed := context.WithCancel(context.Background())
			return &watchedConn{Conn: conn, open: open, close: closed}, nil
		},
		DisableCompression: true,
		IdleConnTimeout:    30 * time.Second,
		MaxIdleConns:       4,
	}}}
}

// checkDaemon refuses to speak to a stranger: a request may carry a password, and a runtime directory below /tmp may have
// been another user's first. Root may speak to anybody's daemon.
func checkDaemon(c net.Conn, uid int) error {
	peer, err := peerOfConn(c)
	if err != nil {
		return err
	}
	if uid == 0 || peer.UID == 0 || int(peer.UID) == uid {
		return nil
	}
	return Errorf(NotAllowed, "the socket at %s is held by user %d, who is a stranger", c.RemoteAddr(), peer.UID).
		WithHint("name your own daemon's directory with --runtime-dir")
}

// Close gives up idle connections to the daemon.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) post(ctx context.Context, verb string, q any) (*http.Response, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	req, err := c.newRequest(ctx, verb, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return c.do(req)
}

// upload sends q and then body. It returns when ctx ends or the daemon goes away, also while body has nothing to say:
// net/http waits for the body's Read, so body is read by a goroutine of its own, which ends with the Read it is in.
func (c *Client) upload(ctx context.Context, verb string, q any, body io.Reader) (*http.Response, error) {
	request, err := encodeHeader(q)
	if err != nil {
		return nil, err
	}
	reader, writer := io.Pipe()
	failed := make(chan error, 1)
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{writer}, struct{ io.Reader }{body}, make([]byte, 256<<10))
		if err != nil && !errors.Is(err, errGivenUp) {
			failed <- err
		}
		writer.CloseWithError(err) // nil is the end of the stream
	}()
	giveUp := func() { reader.CloseWithError(errGivenUp) }
	defer context.AfterFunc(ctx, giveUp)()
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if conn, ok := info.Conn.(*watchedConn); ok {
			context.AfterFunc(conn.open, giveUp)
		}
	}})
	req, err := c.newRequest(traced, verb, reader)
	if err != nil {
		giveUp()
		return nil, err
	}
	req.ContentLength = -1 // chunked: the last chunk is the word that all was sent
	req.Header.Set(headerRequest, request)
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := c.do(req)
	if err == nil {
		return resp, nil // the daemon has answered: it has all it wanted
	}
	giveUp()
	select {
	case sourceErr := <-failed: // says more than the connection that it broke
		return nil, sourceErr
	default:
		return nil, err
	}
}

// differentVersions is the way out where the two do not understand each other.
const differentVersions = "pierfs and pierfsd may be of different versions: compare `pierfs version` with `pierfs status`"

// errGivenUp ends the reading of a body that nobody wants any more.
var errGivenUp = errors.New("given up")

// watchedConn is a connection whose end can be waited for.
type watchedConn struct {
	net.Conn
	open  context.Context // ends when the connection is closed
	close context.CancelFunc
}

func (w *watchedConn) Close() error {
	w.close()
	return w.Conn.Close()
}

func (c *Client) newRequest(ctx context.Context, verb string, body io.Reader) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, http.MethodPost, "http://pierfs/"+Protocol+"/"+verb, body)
}

// do sends req and turns every answer that is not a success into an *Error.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var refusal struct {
		Error *Error `json:"error"`
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxRequest))
	if err == nil {
		err = json.Unmarshal(text, &refusal)
	}
	if err != nil || refusal.Error == nil {
		return nil, Errorf(ProtocolError, "the daemon at %s answered %q", c.socket, resp.Status).
			WithHint("%s", differentVersions)
	}
	return nil, refusal.Error
}

// explain says what a failed exchange means to the person who runs the hand.
func (c *Client) explain(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return Errorf(Timeout, "the daemon at %s did not answer in time", c.socket).
			WithHint("see what it is doing with `pierfs status`, or its log")
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return Errorf(NotRunning, "no daemon answers at %s", c.socket).
			WithHint("start it (`systemctl start pierfsd`, or `pierfsd`), or name its directory with --runtime-dir or $PIERFS_RUNTIME_DIR")
	case errors.Is(err, os.ErrPermission):
		return Errorf(NotAllowed, "you may not speak to the daemon at %s", c.socket).
			WithHint("run pierfs as root or as the daemon's own user")
	}
	return Errorf(Cut, "the daemon at %s broke off: %v", c.socket, err).
		WithHint("see its log; `pierfs status` tells whether it still runs")
}

// tailed is a stream whose end is believed only after its trailer said that nothing failed.
type tailed struct{ resp *http.Response }

func (t *tailed) Read(p []byte) (int, error) {
	n, err := t.resp.Body.Read(p)
	switch {
	case err == nil:
		return n, nil
	case err != io.EOF:
		return n, Errorf(Cut, "the daemon broke off: %v", err).WithHint("see its log")
	}
	trailer, ok := t.resp.Trailer[headerFailure]
	if !ok || len(trailer) != 1 {
		return n, Errorf(Cut, "the daemon's stream has no end").WithHint("see its log")
	}
	if trailer[0] == "" {
		return n, io.EOF
	}
	var failure Error
	if err := decodeHeader(trailer[0], &failure); err != nil {
		return n, Errorf(ProtocolError, "understand why the daemon's stream failed: %v", err).WithHint("%s", differentVersions)
	}
	return n, &failure
}

func (t *tailed) Close() error { return t.resp.Body.Close() }

// maxLine bounds one answer of a Feed.
const maxLine = 1 << 20

// lines yields the lines of r; an error is yielded once, last. A line is good until the next.
func lines(r io.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for buffered := bufio.NewReaderSize(r, maxLine); ; {
			line, err := buffered.ReadSlice('\n')
			switch {
			case err == io.EOF && len(line) == 0:
				return
			case err == io.EOF, errors.Is(err, bufio.ErrBufferFull):
				err = Errorf(ProtocolError, "the daemon sent a line without end").WithHint("%s", differentVersions)
			}
			if !yield(line, err) || err != nil {
				return
			}
		}
	}
}

func decodeAnswer(r io.Reader, a any) error {
	if err := json.NewDecoder(r).Decode(a); err != nil {
		return Errorf(ProtocolError, "understand the daemon's answer: %v", err).
			WithHint("%s", differentVersions)
	}
	return nil
}

func decodeLine(line []byte, a any) error { return decodeAnswer(bytes.NewReader(line), a) }

// encodeHeader puts a value into a header or trailer; base64, because headers carry no UTF-8.
func encodeHeader(v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(text), nil
}

func decodeHeader(header string, v any) error {
	text, err := base64.StdEncoding.DecodeString(header)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}
