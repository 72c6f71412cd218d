package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"waymark/services/kit/run"
)

const portFHIR = 7450

// fhirOptions say where the FHIR server is.
type fhirOptions struct {
	FHIR string `flag:"fhir" help:"URL of the FHIR server (default http://127.0.0.1:7450/fhir/R4)"`
}

func (c *cli) fhirCommand() *cobra.Command {
	command := func(use, short, long string, args cobra.PositionalArgs, do func(context.Context, *fhirClient, []string) error) *cobra.Command {
		var t *target
		var o fhirOptions
		cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
			secure, err := t.tls()
			if err != nil {
				return err
			}
			f := &fhirClient{base: strings.TrimSuffix(or(o.FHIR, "http://"+t.at(portFHIR)+"/fhir/R4"), "/"), http: http.Client{Timeout: t.Timeout}}
			if secure != nil {
				f.http.Transport = &http.Transport{TLSClientConfig: secure}
			}
			return do(cmd.Context(), f, args)
		}}
		t = c.bindTarget(cmd)
		run.Bind(cmd.Flags(), &o)
		return cmd
	}
	get := command("get TYPE/ID", "Print one resource", `Print one resource as JSON. What comes after the id is passed on: _history, _history/VERSION, ?_as-of=...

Example:
  waymark fhir get 'EpisodeOfCare/00000000-0000-4000-8000-000000000005?_as-of=2026-02-03T14:05:00Z'
  waymark fhir get metadata`,
		cobra.ExactArgs(1), func(ctx context.Context, f *fhirClient, args []string) error {
			body, err := f.get(ctx, f.base+"/"+strings.TrimPrefix(args[0], "/"))
			if err != nil {
				return err
			}
			return c.indented(body)
		})
	search := command("search TYPE [NAME=VALUE...]", "Search resources of a type, and print each on a line", `Search resources of a type by the parameters of FHIR, and print each found on a line (NDJSON).
All pages are fetched. The parameters travel in the body of the request, not in its URL.

Example:
  waymark fhir search Task status=requested
  waymark fhir search CarePlan 'patient.identifier=https://fhir.nhs.uk/Id/nhs-number|9990000018'`,
		cobra.MinimumNArgs(1), func(ctx context.Context, f *fhirClient, args []string) error {
			params := url.Values{}
			for _, arg := range args[1:] {
				name, value, ok := strings.Cut(arg, "=")
				if !ok {
					return usage(nil, fmt.Errorf("%q is not NAME=VALUE", arg))
				}
				params.Add(name, value)
			}
			return f.each(ctx, args[0], params, c.out)
		})
	export := command("export [TYPE...]", "Print every resource that is served, one on a line", `Print every resource of the types named, or of all types that the server's CapabilityStatement
lists, one on a line (NDJSON).

Example:
  waymark fhir export > resources.ndjson`,
		cobra.ArbitraryArgs, func(ctx context.Context, f *fhirClient, types []string) error {
			if len(types) == 0 {
				var err error
				if types, err = f.types(ctx); err != nil {
					return err
				}
			}
			out := bufio.NewWriter(c.out)
			for _, t := range types {
				if err := f.each(ctx, t, url.Values{}, out); err != nil {
					return errors.Join(err, out.Flush())
				}
			}
			return out.Flush()
		})
	return noun("fhir", "Read FHIR R4 as another system would", get, search, export)
}

func (c *cli) indented(body []byte) error {
	var out bytes.Buffer
	if err := json.Indent(&out, body, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err := out.WriteTo(c.out)
	return err
}

// fhirClient asks a FHIR server, which may be anybody's.
type fhirClient struct {
	base string
	http http.Client
}

func (f *fhirClient) get(ctx context.Context, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, usage(nil, err)
	}
	return f.do(req)
}

// maxAnswer bounds what one answer may hold.
const maxAnswer = 64 << 20

func (f *fhirClient) do(req *http.Request) ([]byte, error) {
	req.Header.Set("Accept", "application/fhir+json")
	res, err := f.http.Do(req)
	if err != nil {
		return nil, unavailable("waymark doctor", "the FHIR server does not answer: %w", withoutURL(err))
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, unavailable("waymark doctor", "the answer broke off: %w", err)
	}
	if res.StatusCode == http.StatusOK {
		return body, nil
	}
	var outcome struct {
		Issue []struct {
			Diagnostics string
			Expression  []string
		}
	}
	text := res.Status
	if json.Unmarshal(body, &outcome) == nil {
		for _, i := range outcome.Issue {
			text += ": " + strings.Join(append(i.Expression, i.Diagnostics), ": ")
		}
	}
	code := exitError
	switch res.StatusCode {
	case http.StatusNotFound:
		code = exitNotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		code = exitConflict
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		code = exitUnavailable
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusUnprocessableEntity:
		code = exitUsage
	}
	return nil, &coded{errors.New(text), code, ""}
}

// withoutURL is the cause of a client's error: the URL may name a patient.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// types lists what the server serves.
func (f *fhirClient) types(ctx context.Context) (types []string, err error) {
	body, err := f.get(ctx, f.base+"/metadata")
	if err != nil {
		return nil, err
	}
	var statement struct {
		Rest []struct {
			Resource []struct {
				Type        string
				Interaction []struct{ Code string }
			}
		}
	}
	if err := json.Unmarshal(body, &statement); err != nil {
		return nil, err
	}
	for _, rest := range statement.Rest {
		for _, r := range rest.Resource {
			for _, i := range r.Interaction {
				if i.Code == "read" {
					types = append(types, r.Type)
				}
			}
		}
	}
	return types, nil
}

// each writes every resource that a search finds, one on a line.
func (f *fhirClient) each(ctx context.Context, typ string, params url.Values, out io.Writer) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.base+"/"+url.PathEscape(typ)+"/_search", strings.NewReader(params.Encode()))
		if err != nil {
			return usage(nil, err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		body, err := f.do(req)
		if err != nil {
			return err
		}
		var page struct {
			Link  []struct{ Relation, URL string }
			Entry []struct{ Resource json.RawMessage }
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return err
		}
		for _, e := range page.Entry {
			if _, err := fmt.Fprintf(out, "%s\n", e.Resource); err != nil {
				return err
			}
		}
		params = nil
		for _, l := range page.Link {
			if next, err := url.Parse(l.URL); err == nil && l.Relation == "next" {
				params = next.Query() // sent in the body again
			}
		}
		if params == nil {
			return nil
		}
	}
}
