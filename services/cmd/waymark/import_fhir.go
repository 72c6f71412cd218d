package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	edgev1 "waymark/proto/waymark/edge/v1"
)

// maxDocument is the most that TakeDocument takes, as it is sent.
const maxDocument = 768 << 10

// fhir imports FHIR R4 documents, in the order of files and lines.
func (im *importer) fhir(ctx context.Context, files []string) error {
	s := im.counting(string(kindFHIR), "documents", len(files))
	begun := time.Now()
	defer func() { s.Seconds = time.Since(begun).Seconds() }()
	client := edgev1.NewEdgeServiceClient(im.conn)
	bar := im.c.progress("imported FHIR files")
	defer bar.end()
	for i, name := range files {
		raw, err := readMaybeGzip(name)
		if err != nil {
			return err
		}
		documents := [][]byte{raw}
		if filepath.Ext(strings.TrimSuffix(name, ".gz")) == ".ndjson" {
			documents = bytes.Split(raw, []byte("\n"))
		}
		for line, d := range documents {
			if d = bytes.TrimSpace(d); len(d) == 0 {
				continue
			}
			s.Read++
			if im.o.DryRun {
				continue
			}
			if err := im.document(ctx, client, s, d, fmt.Sprintf("%s:%d", name, line+1)); err != nil {
				return err
			}
		}
		bar.set(uint64(i+1), uint64(len(files)))
	}
	return nil
}

func (im *importer) document(ctx context.Context, client edgev1.EdgeServiceClient, s *imported, d []byte, where string) error {
	req := &edgev1.TakeDocumentRequest{Raw: d, Organisation: im.o.From, Source: "import"}
	if len(d) > maxDocument {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		z.Write(d)
		if err := z.Close(); err != nil {
			return err
		}
		req.Raw, req.Gzip = packed.Bytes(), true
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	reply, err := client.TakeDocument(ctx, req)
	switch {
	case codeOf(err) == codes.Unimplemented:
		s.Refused++
		im.because(s, "not taken: this server has no FHIR intake", where)
		return nil
	case err != nil: // not kept: it is too large, or no document at all
		return im.failed(s, err, where)
	}
	im.count(s, reply.Message, reply.Duplicate, where)
	return nil
}
