# The Ruby program of the tests: an HTTP server with a counter, a heap full of objects, a string outside of it, and threads: one
# that serves, one that ticks, and some that wait for work. GET /healthz, and GET /value: {"counter": requests so far, "value":
# computed from heap and string}. PORT, MB.
require 'json'
require 'socket'

megabytes = (ENV['MB'] || 32).to_i
port = (ENV['PORT'] || 8080).to_i

x = 2_463_534_242
block = Array.new(256) do
  x ^= (x << 13) & 0xffffffff
  x ^= x >> 17
  x ^= (x << 5) & 0xffffffff # xorshift32: the same words in every run
end.pack('L*')
buffer = block * (megabytes * 1024)
index = (0...20_000).to_h { |i| ["key-#{i}", { id: i, word: buffer.unpack1('L', offset: 4 * i) }] }

counter = 0
ticks = 0
Thread.new { loop { sleep 0.05; ticks += 1 } }
work = Queue.new
workers = Array.new(4) { Thread.new { while (task = work.pop); task.call; end } }

value = lambda do
  step = [buffer.bytesize / 64 / 4, 1].max
  (0...buffer.bytesize / 4).step(step).inject(index['key-7'][:word]) { |v, i| v ^ buffer.unpack1('L', offset: 4 * i) }
end

pages = {
  '/healthz' => -> { { status: 'ok' } },
  '/value' => -> { { counter: counter += 1, value: value.call } },
  '/ticks' => -> { { ticks: ticks } },
  '/threads' => lambda {
    answer = Queue.new
    workers.each { work << -> { answer << Thread.current.object_id } }
    { answers: workers.map { answer.pop }.length }
  }
}

listener = TCPServer.new('0.0.0.0', port)
puts "ready: #{megabytes} MB, port #{port}"
$stdout.flush
loop do
  connection = listener.accept
  path = connection.gets.to_s.split[1]
  nil until ["\r\n", "\n", nil].include?(connection.gets)
  page = pages[path]
  body = "#{JSON.generate(page ? page.call : { error: 'no such page' })}\n"
  connection.write("HTTP/1.1 #{page ? '200 OK' : '404 Not Found'}\r\nContent-Type: application/json\r\n" \
                   "Content-Length: #{body.bytesize}\r\nConnection: close\r\n\r\n#{body}")
rescue SystemCallError # whoever asked is gone
  nil
ensure
  connection&.close
end
