--- Runs commands in one process, one after the other: a process for each costs a test more than what it does.
-- sallyport lua tests/commands.lua    A line of JSON in, the command's arguments; out a line with its exit code and how long
-- what it printed is on each stream, and those texts; an empty line ends it. Between two commands no store is open.
local cli, json, store, terminal, time = require "cli", require "json", require "store", require "cli.terminal", require "time"

for line in io.stdin:lines() do
  if line == "" then break end
  time.sleep(1)         -- the loop's clock stood while nothing was to be done
  local out, err = {}, {}
  -- as cli.main has them where nothing is a terminal
  local code = cli.main(json.decode(line), {
    out = function(s) out[#out + 1] = s end,
    note = function(s) err[#err + 1] = terminal.safe(s:sub(-1) == "\n" and s or s .. "\n") end,
  })
  store.close()
  local said, noted = table.concat(out), table.concat(err)
  io.stdout:write(("%d %d %d\n"):format(code, #said, #noted), said, noted)
  io.stdout:flush()
end
