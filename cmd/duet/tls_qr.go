package main

import (
	"strings"

	"rsc.io/qr"
)

// quietZone is the margin around a QR code, in modules (ISO/IEC 18004).
const quietZone = 4

// qrCode draws text as a QR code, in lines of half-block characters: two modules one above the other in
// each. What is light in the code is drawn, since most terminals are dark; with colours, for a terminal,
// it looks right on every one. A text that is too long for a code gives "".
func qrCode(text string, colours bool) string {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return ""
	}
	light := func(x, y int) bool { return !code.Black(x, y) } // outside it is light
	var b strings.Builder
	for y := -quietZone; y < code.Size+quietZone; y += 2 {
		b.WriteString("  ")
		if colours {
			b.WriteString("\x1b[97;40m") // bright white on black
		}
		for x := -quietZone; x < code.Size+quietZone; x++ {
			below := y+1 < code.Size+quietZone && light(x, y+1)
			switch {
			case light(x, y) && below:
				b.WriteRune('█')
			case light(x, y):
				b.WriteRune('▀')
			case below:
				b.WriteRune('▄')
			default:
				b.WriteRune(' ')
			}
		}
		if colours {
			b.WriteString("\x1b[0m")
		}
		b.WriteByte('\n')
	}
	return b.String()
}
