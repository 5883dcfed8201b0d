--- sallyport log
local db = require "cli.db"
local files = require "cli.log_files"
local records = require "cli.log_record"
local report = require "cli.report"
local summary = require "cli.log_summary"
local terminal = require "cli.terminal"

local NEWEST = 50        -- what a screen holds
local FOLLOW_MS = 40
local PAUSE_MS = 180     -- a worker and the writer keep a record that long: whoever has just made a request looks for it

local host_of = summary.host_of

-- "10.0.0.7" is every client there, "10.0.0.7:51234" that one; IPv6 as in the record, or without brackets.
local function is_client(r, wanted)
  local at = records.client(r) or ""
  local address = at:match("^%[?(.-)%]?:%d+$")
  return at == wanted or address == (wanted:match("^%[(.*)%]$") or wanted)
end

-- What no record can have finds nothing, and an operator would take that for "there was none".
local function check_client(text)
  local bare = text:match("^%[(.-)%]:%d+$") or text:match("^%[(.*)%]$") or text:match("^([%d.]+):%d+$") or text
  if not (bare:find("^%d+%.%d+%.%d+%.%d+$") or bare:find("^%x*:%x*:[%x:.]*$") or bare:find("^uid:%d+$")) then
    report.usage("--client is an address or a user's number: 10.0.0.7, 10.0.0.7:51234, ::1, [::1]:51234 or uid:1001")
  end
end

-- "403" is that status, "4xx" each of its class.
local function is_status(status, wanted)
  return status ~= nil and (wanted:sub(2) == "xx" and tostring(status):sub(1, 1) == wanted:sub(1, 1) or tostring(status) == wanted)
end

local function wanted(opt, since, until_)
  local decision, text = opt.denied and "deny" or opt.decision, opt.text and opt.text:lower()
  return function(r, line)
    return r.time >= since and r.time < until_ and (not opt.agent or r.agent == opt.agent) and (not decision or r.decision == decision)
      and (not opt.credential or r.credential == opt.credential) and (not opt.status or is_status(r.status, opt.status))
      and (not text or line:lower():find(text, 1, true) ~= nil)
      and (not opt.host or r.host == opt.host or host_of(r.first) == opt.host or host_of(r.last) == opt.host)
      and (not opt.client or is_client(r, opt.client)) and (not opt.kind or (r.kind or "request") == opt.kind)
  end
end

-- The file has milliseconds; --json has moments as text, as everywhere. The rest of the line is JSON already.
local function json_line(r, line)
  local at = report.time_ms(r.time)
  return at and ('{"time":"%s"%s'):format(at, line:sub(line:match('^{"time":%d+()'))) or ""
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
  if opt.client then check_client(opt.client) end
  if opt.host then opt.host = opt.host:lower() end
  if opt.status and not opt.status:find("^%d%d%d$") and not opt.status:find("^%dxx$") then report.usage("--status is a number as 403, or a class as 4xx") end
  if opt.denied and opt.decision == "allow" then report.usage("--denied and --decision=allow find nothing together") end
  if opt.kind and opt.kind ~= "request" and opt.kind ~= "change" then report.usage("--kind is request or change") end
  if opt.summary and opt.kind == "change" then report.usage("--summary counts requests") end
  if opt.summary then opt.kind = "request" end
  if opt.after and opt.newest then report.usage("--after and --newest are two ways to say where to begin: name one") end
  db.open(ctx)
  local newest = not (ctx.json or opt.summary or opt.since or opt["until"] or opt.after) and NEWEST or nil
  if opt.newest then
    newest = opt.newest:find("^%d+$") and math.tointeger(tonumber(opt.newest)) or report.usage("--newest is a number")
  end
  local path = require("cli.log_place").current(ctx)
  local keep, shown = wanted(opt, since, until_), 0
  local listing = not ctx.json and records.listing(function(what, text) return terminal.paint(ctx, what, text) end)
  -- What is too old goes from the files at the next rotation, and is not shown any more.
  local oldest, unset = time.wall_ms() - 1000 * require("records").settings(nil).log_age, 1000 * host.build_time
  local function is_shown(r, line) return r and (r.time >= oldest or r.time < unset) and keep(r, line) end
  local sum, after = opt.summary and summary.new(), opt.after and ('"request":"%s"'):format(opt.after)
  local function show(r, line)
    if r then ctx.out(listing and listing.row(r) or json_line(r, line)) end
  end

  local function put(line)
    if after then
      if line:find(after, 1, true) then after = nil end
      return
    end
    local r = records.glance(line)
    if not is_shown(r, line) then return end
    shown = shown + 1
    if sum then
      sum.add(r, summary.host(r))
    else
      show(records.read(line), line)
    end
  end

  if not ctx.json and not opt.follow and ctx.host.lock_held(ctx.home) then time.sleep(PAUSE_MS) end
  local set = files.snapshot(host, path)
  local list = files.list(set)
  local held = {}
  if newest then
    for i = #list, 1, -1 do
      files.backward(list[i], function(line)
        local r = #held < newest and records.read(line)
        if is_shown(r, line) then held[#held + 1] = { r = r, line = line } end
        return #held >= newest
      end)
    end
    shown = #held
    -- What two workers wrote at the same time stands in the file as it came.
    for i, h in ipairs(held) do h.at = #held - i end
    table.sort(held, function(a, b)
      if a.r.time ~= b.r.time then return a.r.time < b.r.time end
      return a.at < b.at
    end)
    for _, h in ipairs(listing and held or {}) do listing.fit(h.r) end
  end
  if listing and not sum and terminal.width(ctx) then ctx.out(listing.head()) end
  for _, h in ipairs(held) do show(h.r, h.line) end
  if not newest then
    for _, file in ipairs(list) do files.forward(file, put) end
    if after then
      report.fail(("no record has the id '%s'"):format(report.clean(opt.after)), "it may be too old, or not be written yet: sallyport log --json")
    end
  end
  if not opt.follow then
    files.close(set)
    if sum then ctx.out(ctx.json and report.json(sum.result()) or summary.text(ctx, sum.result())) end
    if shown == 0 then ctx.note((opt.kind or opt.agent or opt.host or opt.client or opt.denied or opt.credential or opt.status or opt.decision or opt.text or opt.since or opt["until"] or opt.after) and "No such request." or "No request yet.") end
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
      { name = "client", arg = "ADDRESS", help = "from this address, as 10.0.0.7 or 10.0.0.7:51234" },
      { name = "kind", arg = "KIND", help = "request or change: who changed what here, by a command or a page of the door" },
      { name = "credential", arg = "CREDENTIAL", help = "with this credential" },
      { name = "status", arg = "STATUS", help = "with this status: 403, or a class as 4xx" },
      { name = "decision", arg = "DECISION", of = { "allow", "deny" }, help = "what was allowed, or what was refused" },
      { name = "denied", help = "only what was refused" },
      { name = "text", arg = "TEXT", help = "with this text anywhere in the record, in whatever case" },
      { name = "since", arg = "TIME", help = "15m, 24h, 7d ago, or 2026-01-31[T09:30[:15]] (UTC)" },
      { name = "until", arg = "TIME", help = "before this time" },
      { name = "after", arg = "ID", help = "behind the record with this `request` (--json shows it)" },
      { name = "summary", help = "counted by host and code: what was refused, what went out" },
      { name = "newest", arg = "N", help = "at most so many; 50 unless named (all with --json, --since, --until)" },
    },
    means = { ["f"] = "did you mean --follow?", tail = "did you mean --follow?", n = "did you mean --newest?" },
    help = [[
Shows the request log: one line a request, when it has ended: time, decision, status, agent, credential, request, and
why, how long and how much. Never a header, a query, a body or a secret. --json prints one object a line.
A client whose TLS with us fails has a line too, with the cause: client_tls: unknown_ca does not trust the CA.
A change of what the store holds has a line as well: who made it, by which command or page, which records, and never what
is in them. Of more than 20 refusals of an agent in a second the others are counted, a tenth of a second in one line.
More: sallyport help logging.

The log is a file of JSON lines, log/requests.jsonl in the data directory or what log-file says, for other programs
too: sallyport set log-file, log-group. log-size and log-age say how much is kept: of every agent the newest 10,000, as far
as half of log-size goes. Older records are in the file of the same name with .1. The file may be moved away (logrotate).
`sallyport set log memory` keeps it off the flash.

examples:
  sallyport log --follow
  sallyport log --denied --agent claude
  sallyport log --credential stripe --status 5xx
  sallyport log --kind change --since 7d
  sallyport log --summary --since 24h
  sallyport log --json --host api.github.com | jq .status
  sallyport set log-file /var/log/sallyport/requests.jsonl
]], run = run },
}
