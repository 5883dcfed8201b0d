--- sallyport status
local db = require "cli.db"
local files = require "cli.log_files"
local home = require "cli.home"
local records = require "cli.log_record"
local report = require "cli.report"
local summary = require "cli.log_summary"
local terminal = require "cli.terminal"
local troubles = require "troubles"

local HOUR_MS = 3600 * 1000
local NAMED = 8            -- lines of one kind on the screen; --json has all

-- Active, disabled, revoked and expired agents, and those that end within a week.
local function agents(now)
  local out = { active = 0, disabled = 0, ended = 0, ending = report.array() }
  for _, a, damaged in db.each("agent", "a/") do
    if a and a.kind == "tenant" then goto tenant end
    if not a or damaged or a.revoked or a.expires_at and a.expires_at <= now then
      out.ended = out.ended + 1
    elseif a.enabled == false then
      out.disabled = out.disabled + 1
    else
      out.active = out.active + 1
      if troubles.ends_soon(a, now) then
        out.ending[#out.ending + 1] = { name = a.name, expires_at = report.time(a.expires_at) }
      end
    end
    ::tenant::
  end
  return out
end

local function credentials(now)
  local out = { enabled = 0, disabled = 0, troubled = report.array() }
  for key, record, damaged in db.each("credential", "") do
    if not record or damaged then
      out.troubled[#out.troubled + 1] = { name = key, why = "damaged on the disk, and refused" }
    elseif record.enabled == false then
      out.disabled = out.disabled + 1
    else
      out.enabled = out.enabled + 1
      local why = troubles.of(record, now)
      if why then out.troubled[#out.troubled + 1] = { name = key, why = why } end
    end
  end
  return out
end

-- Of the newest records back to an hour ago.
local function last_hour(ctx, path, now)
  local sum, set = summary.new(), files.snapshot(ctx.host, path)
  local list = files.list(set)
  for i = #list, 1, -1 do
    local over = files.backward(list[i], function(line)
      local r = records.glance(line)
      if not r then return false end
      if r.time < now - HOUR_MS then return true end
      if r.kind ~= "change" then sum.add(r, summary.host(r)) end
    end)
    if over then break end
  end
  files.close(set)
  return sum.result()
end

local function lines_of(ctx, s)
  local rows = {}
  local function row(name, text) rows[#rows + 1] = { name, text } end
  row("proxy", s.running and ("runs on %s"):format(table.concat(s.listen, ", ")) or "does not run: sallyport serve")
  row("data", ("%s, %s free"):format(s.home, s.free and ("%.1f GiB"):format(s.free / (1 << 30)) or "?"))
  row("agents", ("%d active%s%s"):format(s.agents.active, s.agents.disabled > 0 and (", %d disabled"):format(s.agents.disabled) or "", s.agents.ended > 0 and (", %d ended"):format(s.agents.ended) or ""))
  for i, a in ipairs(s.agents.ending) do
    if i <= NAMED then row("", ("%s ends at %s"):format(a.name, a.expires_at)) end
  end
  local c = s.credentials
  row("credentials", ("%d enabled%s"):format(c.enabled, c.disabled > 0 and (", %d disabled"):format(c.disabled) or ""))
  for i, t in ipairs(c.troubled) do
    if i <= NAMED then row("", ("%s: %s"):format(t.name, t.why)) end
  end
  if #c.troubled > NAMED then row("", ("and %d more: --json"):format(#c.troubled - NAMED)) end
  local h = s.last_hour
  row("last hour", summary.line(h))
  for i, r in ipairs(h.refused_by_host) do
    if i <= NAMED then row("", ("%d  %s  %s  (%s)"):format(r.count, r.code, r.host, report.several(r.agents, "-"))) end
  end
  if h.refused > 0 then row("", "sallyport log --denied --since 1h shows them, sallyport explain says why") end
  row("log", s.log)
  return terminal.columns(ctx, nil, rows, { proxy = true })
end

local function run(_, _, ctx)
  db.open(ctx)
  local time = require "time"
  local now, running = time.wall(), home.running(ctx)
  local path = require("cli.log_place").current(ctx)
  local free = ctx.host.disk(ctx.home)
  local s = { running = running ~= nil, listen = report.array(running and running.listen), home = ctx.home, log = path,
    version = ctx.host.version, free = free, agents = agents(now), credentials = credentials(now),
    last_hour = last_hour(ctx, path, time.wall_ms()) }
  ctx.out(ctx.json and report.json(s) or lines_of(ctx, s))
  return running and 0 or 1
end

return {
  { words = "status", max = 0, summary = "what runs, what needs you, and the last hour", help = [[
One screen: whether the proxy runs and where it listens, agents and those that end within a week, credentials that
cannot be used and what to do about each, and what the last hour's requests came to. Exit 1 where no proxy runs.
`sallyport doctor` looks at the machine; this looks at the work.

examples:
  sallyport status
  sallyport status --json | jq '.credentials.troubled'
]], run = run },
}
