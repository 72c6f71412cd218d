package fhir

import (
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkDecode reads a BaRS message of 18 kB.
func BenchmarkDecode(b *testing.B) {
	data, err := os.ReadFile(filepath.Join("testdata", "corpus", "bars", "process-message.json"))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if r, _ := Decode(data); r == nil {
			b.Fatal("not read")
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	data, err := os.ReadFile(filepath.Join("testdata", "corpus", "bars", "process-message.json"))
	if err != nil {
		b.Fatal(err)
	}
	r, _ := Decode(data)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Encode(r); err != nil {
			b.Fatal(err)
		}
	}
}
