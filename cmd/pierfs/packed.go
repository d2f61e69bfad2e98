package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
	"pierfs/cmd/internal/transfer"
)

// getPacked writes all files that fit as one value: to a file if one was named, else to standard output.
func (h *hand) getPacked(ctx context.Context, o transfer.Options, flags treeFlags, named bool) error {
	var pack func(context.Context, transfer.Options, bool, io.Writer) error
	switch strings.ToUpper(flags.format) {
	case "RAW":
		pack = h.packRaw
	case "JSON_BASE64", "JSON-BASE64":
		pack = h.packJSON
	case "ZIP":
		pack = h.packZIP
	default:
		return usageError{fmt.Errorf("--output %q is none of raw, JSON_BASE64, ZIP", flags.format)}
	}
	if !named || o.Local == "-" {
		return pack(ctx, o, flags.recursive, h.out)
	}
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() { // ends with the reading below
		err := pack(ctx, o, flags.recursive, writer)
		ended <- err
		writer.CloseWithError(err)
	}()
	_, err := receive(o.Local, reader)
	reader.CloseWithError(os.ErrClosed)
	if packErr := <-ended; packErr != nil {
		return packErr // says more than that the stream broke
	}
	return err
}

// each yields the files that fit, one after the other, each with its content. The content is read to its end.
func each(ctx context.Context, o transfer.Options, recursive bool, use func(control.File, io.Reader) error) (int, error) {
	q := control.LsRequest{FileRequest: o.Remote, Recursive: recursive, Filter: o.Filter, First: o.First}
	var files []control.File
	for f, err := range control.Ls.Call(ctx, o.Client, q) {
		if err != nil {
			return 0, err
		}
		if f.Type == "file" {
			files = append(files, f)
		}
	}
	for _, f := range files {
		if err := one(ctx, o, f, use); err != nil {
			return 0, err
		}
	}
	return len(files), nil
}

// named is what a file is called in a pack.
func named(f control.File) string {
	if f.Path != nil {
		return string(*f.Path)
	}
	return string(f.Name)
}

func one(ctx context.Context, o transfer.Options, f control.File, use func(control.File, io.Reader) error) error {
	at := o.Remote
	if path.Base("/"+string(at.Path)) != string(f.Name) || f.Path != nil { // else it is the very file that was asked for, or one of the same name in it
		at.Path += control.Name("/" + named(f))
	} else if whole, err := control.Stat.Call(ctx, o.Client, at); err == nil && whole.Type == "directory" {
		at.Path += control.Name("/" + f.Name)
	}
	_, body, err := control.Get.Call(ctx, o.Client, control.GetRequest{FileRequest: at})
	if err != nil {
		return err
	}
	defer body.Close()
	return use(f, body)
}

func (h *hand) packRaw(ctx context.Context, o transfer.Options, recursive bool, w io.Writer) error {
	_, err := each(ctx, o, recursive, func(_ control.File, body io.Reader) error {
		_, err := io.Copy(w, body)
		return err
	})
	return err
}

// packJSON writes each file with its content; files that are none are told by their count.
func (h *hand) packJSON(ctx context.Context, o transfer.Options, recursive bool, w io.Writer) error {
	if _, err := io.WriteString(w, `{"files":[`); err != nil {
		return err
	}
	separator := ""
	n, err := each(ctx, o, recursive, func(f control.File, body io.Reader) error {
		var b bytes.Buffer
		encoder := json.NewEncoder(terminal.JSONWriter(&b))
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(f); err != nil {
			return err
		}
		head := strings.TrimSuffix(strings.TrimSpace(b.String()), "}")
		if _, err := io.WriteString(w, separator+head+`,"content":"`); err != nil {
			return err
		}
		separator = ","
		content := base64.NewEncoder(base64.StdEncoding, w)
		if _, err := io.Copy(content, body); err != nil {
			return err
		}
		if err := content.Close(); err != nil {
			return err
		}
		_, err := io.WriteString(w, `"}`)
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "],\"count\":%d,\"message\":%q}\n", n, counted(n, "1 file", "files"))
	return err
}

// packZIP writes an archive; where no file fits there is none.
func (h *hand) packZIP(ctx context.Context, o transfer.Options, recursive bool, w io.Writer) error {
	archive := zip.NewWriter(w)
	n, err := each(ctx, o, recursive, func(f control.File, body io.Reader) error {
		entry, err := archive.CreateHeader(&zip.FileHeader{Name: named(f), Method: zip.Deflate, Modified: f.Time})
		if err == nil {
			_, err = io.Copy(entry, body)
		}
		return err
	})
	if err == nil && n == 0 {
		return control.Errorf(control.NotFound, "no file fits").WithHint("`pierfs ls` with the same filter shows what would")
	}
	if err != nil {
		return err
	}
	return archive.Close()
}
