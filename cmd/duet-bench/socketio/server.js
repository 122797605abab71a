// The WebRTC tutorials' signaling server on Socket.IO, kept to what a call needs: rooms of two,
// `create or join`, `message` to the other one in the room, `leave`. Left out, to its advantage:
// the page, `ipaddr`, and the `log` event that the original sends back for each message.
'use strict'

const http = require('node:http')
const { Server } = require('socket.io')

const server = http.createServer((_req, res) => res.end('ok\n'))
const io = new Server(server)

io.on('connection', (socket) => {
  socket.on('create or join', (room) => {
    const seats = io.sockets.adapter.rooms.get(room)?.size ?? 0
    if (seats >= 2) return socket.emit('full', room)
    if (seats === 1) io.to(room).emit('join', room)
    socket.data.room = room
    socket.join(room)
    socket.emit(seats === 0 ? 'created' : 'joined', room, socket.id)
  })
  socket.on('message', (message) => socket.to(socket.data.room).emit('message', message))
  socket.on('leave', (room) => {
    socket.leave(room)
    socket.to(room).emit('bye', room, socket.id)
    socket.emit('leaved', room, socket.id)
  })
})

const [host, port] = (process.env.BENCH_ADDR ?? '127.0.0.1:0').split(':')
server.listen(Number(port), host, () => console.log(`http://127.0.0.1:${server.address().port}/`))
