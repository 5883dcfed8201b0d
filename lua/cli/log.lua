--- sallyport log
local db = require "cli.db"
local report = require "cli.report"

local NEWEST = 50        -- what a screen holds
local PAGE = 512
local FOLLOW_MS = 300    -- as often as the server writes

local PAUSE_MS = 1200    -- a worker that has just written keeps what ends within the second after it

local function wanted(opt)
  return function(r)
    return (not opt.agent or r.agent == opt.agent) and (not opt.host or r.host == opt.host)
      and (not opt.denied or r.decision == "deny")
  end
end

local function when(ms)
  if not ms then return "" end
  return os.date("!%Y-%m-%dT%H:%M:%S", ms // 1000) .. (".%03dZ"):format(ms % 1000)
end

local function line(r)
  local parts = { when(math.tointeger(r.time)), r.decision or "?", r.agent or "-", r.credential or "-", r.method
    or "-",
    (r.host or "-") .. ((r.port and r.port ~= 443) and ":" .. r.port or "") .. (r.path or ""), r.status or "-" }
  local tail = {}
  if r.error then tail[#tail + 1] = r.error end
  if r.decision == "deny" and r.reason and r.reason ~= r.error then tail[#tail + 1] = r.reason end
  if r.ms then tail[#tail + 1] = ("%d ms"):format(math.tointeger(r.ms) or r.ms // 1) end
  if r.up or r.down then tail[#tail + 1] = ("%d/%d bytes"):format(r.up or 0, r.down or 0) end
  for i, p in ipairs(parts) do parts[i] = report.clean(p) end
  return table.concat(parts, " ") .. (#tail > 0 and "  " .. report.clean(table.concat(tail, ", ")) or "") .. "\n"
end

local function run(_, opt, ctx)
  db.open(ctx)
  local logstore, time = require "logstore", require "time"
  local newest = NEWEST
  if opt.newest then
    newest = opt.newest:find("^%d+$") and math.tointeger(tonumber(opt.newest)) or report.usage("--newest is a number")
  end
  local keep, show = wanted(opt), ctx.json and function(r) return report.json_line(r) .. "\n" end or line
  local filtered = opt.agent or opt.host or opt.denied
  local after, held, waited = nil, {}, false
  -- A filter may leave few of the newest: then the whole log is read, a page at a time, and its end kept.
  local page = logstore.each((ctx.json or filtered) and { limit = PAGE } or { newest = newest })
  while page and #page > 0 do
    for _, item in ipairs(page) do
      after = item.id
      if keep(item.record) then
        held[#held + 1] = item.record
        if #held > 2 * newest and not (ctx.json and not opt.newest) then
          table.move(held, #held - newest + 1, #held, 1, held)
          for i = #held, newest + 1, -1 do held[i] = nil end
        end
      end
    end
    local last = page[#page].record.time
    page = logstore.each { after = after, limit = PAGE }
    -- For a reader, who has just made a request and looks for it; a program asks again, or follows.
    if #page == 0 and not ctx.json and not opt.follow and not waited and 1000 * time.wall() - last < PAUSE_MS
      and ctx.host.lock_held(ctx.home) then
      waited = true
      time.sleep(PAUSE_MS)
      page = logstore.each { after = after, limit = PAGE }
    end
  end
  local from = (ctx.json and not opt.newest) and 1 or math.max(1, #held - newest + 1)
  for i = from, #held do ctx.out(show(held[i])) end
  if #held == 0 and not opt.follow then ctx.note(filtered and "No such request." or "No request yet.") end
  while opt.follow do
    io.stdout:flush()
    time.sleep(FOLLOW_MS)
    page = logstore.each { after = after, limit = PAGE }
    for _, item in ipairs(page) do
      after = item.id
      if keep(item.record) then ctx.out(show(item.record)) end
    end
    if not io.stdout:flush() then break end   -- whoever read us has gone
  end
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
How much is kept: sallyport set log-records, sallyport set log-age.

examples:
  sallyport log --follow
  sallyport log --denied --agent claude
  sallyport log --json --host api.github.com | jq .status
]], run = run },
}
