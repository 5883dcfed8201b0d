--- sallyport log
local db = require "cli.db"
local errors = require "errors"
local files = require "cli.log_files"
local report = require "cli.report"
local reqlog = require "reqlog"
local summary = require "cli.log_summary"
local terminal = require "cli.terminal"

local NEWEST = 50        -- what a screen holds
local FOLLOW_MS = 100
local PAUSE_MS = 120     -- a worker and the writer keep a record that long: whoever has just made a request looks for it

-- The members of a line that something else has written may be anything.
local function text(v) return (type(v) == "string" or type(v) == "number") and tostring(v) or nil end

local function integer(v) return type(v) == "number" and math.tointeger(v // 1) or nil end

local host_of = summary.host_of

local function wanted(opt, since, until_)
  return function(r)
    return r.time >= since and r.time < until_ and (not opt.agent or r.agent == opt.agent) and (not opt.denied or r.decision == "deny")
      and (not opt.host or r.host == opt.host or host_of(r.first) == opt.host or host_of(r.last) == opt.host)
  end
end

local function when(ms) return report.time_ms(ms) or "-" end

-- The file has milliseconds; --json has moments as text, as everywhere.
local function json_line(r)
  r.time = report.time_ms(integer(r.time))
  return report.json_line(r) .. "\n"
end

local function line(r, ctx)
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
    tail[#tail + 1] = ("%d bytes up, %d down"):format(integer(r.up) or 0, integer(r.down) or 0)
  end
  for i, p in ipairs(parts) do parts[i] = report.clean(p) end
  if r.decision == "deny" then parts[2] = terminal.paint(ctx, "bad", parts[2]) end
  if #parts == 7 and (integer(r.status) or 0) >= 400 then parts[7] = terminal.paint(ctx, "warn", parts[7]) end
  return table.concat(parts, " ") .. (#tail > 0 and "  " .. report.clean(table.concat(tail, ", ")) or "") .. "\n"
end

-- Both ends of what is asked for, in Unix ms.
local function span_of(opt, now)
  local ends = {}
  for _, name in ipairs { "since", "until" } do
    if opt[name] then
      local at, why = report.moment(opt[name], now)
      ends[name] = at or report.usage(("--%s: %s"):format(name, why))
    end
  end
  if opt["until"] and opt.follow then report.usage("--follow goes on, so --until has no part in it") end
  return ends.since or math.mininteger, ends["until"] or math.maxinteger
end

local function run(_, opt, ctx)
  local host, time = ctx.host, require "time"
  local since, until_ = span_of(opt, time.wall_ms())
  if opt.summary and (opt.follow or opt.newest) then report.usage("--summary counts what is there: without --follow and --newest") end
  if opt.after and opt.newest then report.usage("--after and --newest are two ways to say where to begin: name one") end
  db.open(ctx)
  local newest = not (ctx.json or opt.summary or opt.since or opt["until"] or opt.after) and NEWEST or nil
  if opt.newest then
    newest = opt.newest:find("^%d+$") and math.tointeger(tonumber(opt.newest)) or report.usage("--newest is a number")
  end
  local path = require("cli.log_place").current(ctx)
  local keep, show = wanted(opt, since, until_), ctx.json and json_line or line
  local json, shown = require "json", 0
  -- What is too old goes from the files at the next rotation, and is not shown any more.
  local oldest, unset = time.wall_ms() - 1000 * require("records").settings(nil).log_age, 1000 * host.build_time

  local function record(s)
    local r = reqlog.whole(s) and json.decode(s)
    if type(r) == "table" and (r.time >= oldest or r.time < unset) and keep(r) then return r end
  end
  local sum = opt.summary and summary.new()
  local seen_after = not opt.after
  local function put(s)
    local r = record(s)
    if not seen_after then
      local whole = reqlog.whole(s) and json.decode(s)
      seen_after = type(whole) == "table" and whole.request == opt.after
      return
    end
    if r and sum then
      sum.add(r, summary.host(r))
    elseif r then
      ctx.out(show(r, ctx))
    end
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
    for i = #held, 1, -1 do ctx.out(show(held[i], ctx)) end
    shown = #held
  else
    for _, file in ipairs(list) do files.forward(file, put) end
    if not seen_after then
      report.fail(("no record has the id '%s'"):format(report.clean(opt.after)), "it may be too old, or not be written yet: sallyport log --json")
    end
  end
  if not opt.follow then
    files.close(set)
    if sum then ctx.out(ctx.json and report.json(sum.result()) or summary.text(ctx, sum.result())) end
    if shown == 0 then ctx.note((opt.agent or opt.host or opt.denied or opt.since or opt["until"] or opt.after) and "No such request." or "No request yet.") end
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
  { words = "log", max = 0, lines = true, summary = "what was asked, decided and answered",
    options = {
      { name = "follow", help = "go on as requests end; Ctrl-C stops" },
      { name = "agent", arg = "AGENT", help = "of this agent" },
      { name = "host", arg = "HOST", help = "to this host" },
      { name = "denied", help = "only what was refused" },
      { name = "since", arg = "TIME", help = "15m, 24h, 7d ago, or 2026-01-31[T09:30[:15]] (UTC)" },
      { name = "until", arg = "TIME", help = "before this time" },
      { name = "after", arg = "ID", help = "behind the record with this `request` (--json shows it)" },
      { name = "summary", help = "counted by host and code: what was refused, what went out" },
      { name = "newest", arg = "N", help = "at most so many; 50 unless named (all with --json, --since, --until)" },
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
  sallyport log --summary --since 24h
  sallyport log --json --host api.github.com | jq .status
  sallyport set log-file /var/log/sallyport/requests.jsonl
]], run = run },
}
