// Command protodeps writes the proto sources that our contracts import but
// that their Go modules carry only as descriptors, so that buf works without a
// schema registry. Usage: protodeps DIR.
package main

import (
	"fmt"
	"os"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/jhump/protoreflect/v2/protoprint"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: protodeps DIR")
		os.Exit(2)
	}
	printer := protoprint.Printer{}
	if err := printer.PrintProtosToFileSystem([]protoreflect.FileDescriptor{validate.File_buf_validate_validate_proto}, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
