--- sallyport log
local db = require "cli.db"
local errors = require "errors"
local files = require "cli.log_files"
local report = require "cli.report"
local reqlog = require "reqlog"

local NEWEST = 50        -- what a screen holds
local FOLLOW_MS = 100
local TIME_MAX = 253402300799999   -- ms: the last of the year 9999
local PAUSE_MS = 120     -- a worker and the writer keep a record that long: whoever has just made a request looks for it

-- The members of a line that something else has written may be anything.
local function text(v) return (type(v) == "string" or type(v) == "number") and tostring(v) or nil end

local function integer(v) return type(v) == "number" and math.tointeger(v // 1) or nil end

-- "GET api.example.com:443/v1", as a record of many refusals names the first and the last.
local function host_of(target)
  target = text(target)
  return target and target:match("^%S* (.-):%d*/") or target and target:match("^%S* (.*):%d*$")
end

local function wanted(opt)
  return function(r)
    return (not opt.agent or r.agent == opt.agent) and (not opt.denied or r.decision == "deny")
      and (not opt.host or r.host == opt.host or host_of(r.first) == opt.host or host_of(r.last) == opt.host)
  end
end

local function when(ms)
  if not ms or ms < 0 or ms > TIME_MAX then return "-" end
  return os.date("!%Y-%m-%dT%H:%M:%S", ms // 1000) .. (".%03dZ"):format(ms % 1000)
end

local function line(r)
  local parts = { when(integer(r.time)), text(r.decision) or "?", text(r.agent) or "-", text(r.credential) or "-" }
  local tail = {}
  if integer(r.count) then
    parts[#parts + 1] = ("%d more: %s … %s"):format(integer(r.count), text(r.first) or "-", text(r.last) or "-")
  else
    parts[#parts + 1] = text(r.method) or "-"
    parts[#parts + 1] = errors.host(text(r.host) or "-") .. (((integer(r.port) or 443) ~= 443 and integer(r.port) ~= 0) and ":" .. integer(r.port) or "")
      .. (text(r.path) or "")
    parts[#parts + 1] = text(r.status) or "-"
  end
  local reason = r.decision == "deny" and text(r.reason)
  if text(r.error) and not (reason and reason:sub(1, #text(r.error) + 1) == text(r.error) .. ":") then tail[1] = text(r.error) end
  if text(r.note) then tail[#tail + 1] = text(r.note) end
  if reason and reason ~= r.error then tail[#tail + 1] = reason end
  if text(r.stripped) then tail[#tail + 1] = "of the agent's own: " .. text(r.stripped) end
  if integer(r.ms) then tail[#tail + 1] = ("%d ms"):format(integer(r.ms)) end
  if integer(r.up) or integer(r.down) then
    tail[#tail + 1] = ("%d/%d bytes"):format(integer(r.up) or 0, integer(r.down) or 0)
  end
  for i, p in ipairs(parts) do parts[i] = report.clean(p) end
  return table.concat(parts, " ") .. (#tail > 0 and "  " .. report.clean(table.concat(tail, ", ")) or "") .. "\n"
end

local function run(_, opt, ctx)
  db.open(ctx)
  local host, time = ctx.host, require "time"
  local newest = not ctx.json and NEWEST or nil
  if opt.newest then
    newest = opt.newest:find("^%d+$") and math.tointeger(tonumber(opt.newest)) or report.usage("--newest is a number")
  end
  local path = require("cli.log_place").current(ctx)
  local keep, show = wanted(opt), ctx.json and function(r) return report.json_line(r) .. "\n" end or line
  local json, shown = require "json", 0
  -- What is too old goes from the files at the next rotation, and is not shown any more.
  local oldest, unset = time.wall_ms() - 1000 * require("records").settings(nil).log_age, 1000 * host.build_time

  local function record(s)
    local r = reqlog.whole(s) and json.decode(s)
    if type(r) == "table" and (r.time >= oldest or r.time < unset) and keep(r) then return r end
  end
  local function put(s)
    local r = record(s)
    if r then ctx.out(show(r)) end
    shown = shown + (r and 1 or 0)
  end

  if not ctx.json and not opt.follow and ctx.host.lock_held(ctx.home) then time.sleep(PAUSE_MS) end
  local set = files.snapshot(host, path)
  local list = files.list(set)
  if newest then
    local held = {}
    for i = #list, 1, -1 do
      files.backward(list[i], function(s)
        if #held < newest then held[#held + 1] = record(s) end
        return #held >= newest
      end)
    end
    for i = #held, 1, -1 do ctx.out(show(held[i])) end
    shown = #held
  else
    for _, file in ipairs(list) do files.forward(file, put) end
  end
  if not opt.follow then
    files.close(set)
    if shown == 0 then ctx.note((opt.agent or opt.host or opt.denied) and "No such request." or "No request yet.") end
    return 0
  end
  local tail = files.tail(host, path, set)
  repeat
    tail.poll(put)
    if not io.stdout:flush() then break end   -- whoever read us has gone
    time.sleep(FOLLOW_MS)
  until false
  return 0
end

return {
  { words = "log", max = 0, summary = "what was asked, decided and answered",
    options = {
      { name = "follow", help = "go on as requests end; Ctrl-C stops" },
      { name = "agent", arg = "AGENT", help = "of this agent" },
      { name = "host", arg = "HOST", help = "to this host" },
      { name = "denied", help = "only what was refused" },
      { name = "newest", arg = "N", help = "at most so many; 50 unless named (with --json: all)" },
    },
    means = { ["f"] = "did you mean --follow?", tail = "did you mean --follow?", n = "did you mean --newest?" },
    help = [[
Shows the request log: one line a request, at its end: time, decision, agent, credential, method, host and
path, status, reason, times, bytes. Never a header, a query, a body or a secret. --json prints one object a line.
A client whose TLS with us fails has a line too, with the cause: client_tls: unknown_ca does not trust the CA.
Of more than 20 refusals of an agent in a second the rest is one line, with their number, the first and the last.

The log is a file of JSON lines, log/requests.jsonl in the data directory or what log-file says, for other programs
too: sallyport set log-file, log-group. log-size and log-age say how much is kept: of every agent the newest 10,000, as far
as half of log-size goes. Older records are in the file of the same name with .1. The file may be moved away (logrotate).
`sallyport set log memory` keeps it off the flash.

examples:
  sallyport log --follow
  sallyport log --denied --agent claude
  sallyport log --json --host api.github.com | jq .status
  sallyport set log-file /var/log/sallyport/requests.jsonl
]], run = run },
}
