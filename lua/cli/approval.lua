--- sallyport approval list, show, allow, deny: what rules ask a person about (lua/approvals.lua).
local approvals = require "approvals"
local db = require "cli.db"
local report = require "cli.report"
local terminal = require "cli.terminal"

local FOLLOW_MS = 500

-- saw: of one question alone.
local function shape(r, saw)
  return { id = r.question, state = r.state, agent = r.agent, bundle = r.bundle, credential = r.credential, rule = r.rule, reason = r.reason,
    covers = r.covers, method = r.method, url = r.url, port = r.port, content_type = r.type, bytes = r.bytes, sha256 = r.sha256,
    asked_at = r.asked, expires_at = r["until"], saw = saw }
end

local function named(id)
  return approvals.named(id) or report.fail(("there is no question '%s'"):format(report.clean(id)),
    "it may have been answered, or its time may be over: sallyport approval list")
end

local function row_of(r)
  return { r.question, r.state, r.agent, r.rule, ("%s %s"):format(r.method, r.url), r.reason, report.time(r["until"]) }
end

local HEAD = { "QUESTION", "STATE", "AGENT", "RULE", "REQUEST", "REASON", "ENDS" }

-- Questions as they come, and what becomes of them, until nobody reads any more.
local function follow(ctx)
  local known, time = {}, require "time"
  while true do
    for _, row in ipairs(approvals.all()) do
      local r = row.record
      if known[row.key] ~= r.state .. r.question then
        known[row.key] = r.state .. r.question
        ctx.out(ctx.json and report.json_event(shape(r)) or ("%s  %s  agent %s  rule %s: %s\n    %s %s%s\n%s"):format(r.question, r.state, r.agent, r.rule, r.reason,
          r.method, r.url, r.bytes and (" (%d bytes)"):format(r.bytes) or "",
          r.state == "open" and ("    sallyport approval allow %s\n"):format(r.question) or ""))
      end
    end
    if not io.stdout:flush() then return 0 end
    time.sleep(FOLLOW_MS)
  end
end

local function list(_, opt, ctx)
  db.open(ctx)
  if opt.follow then return follow(ctx) end
  local rows, out = {}, report.array()
  for _, row in ipairs(approvals.all()) do
    rows[#rows + 1], out[#out + 1] = row_of(row.record), shape(row.record)
  end
  ctx.out(ctx.json and report.json(out) or terminal.columns(ctx, HEAD, rows))
  return 0
end

local function show(args, _, ctx)
  db.open(ctx)
  local r = named(args[1]).record
  local saw = approvals.saw(r)
  if ctx.json then
    ctx.out(report.json(shape(r, saw)))
    return 0
  end
  local rows = { { "question", r.question }, { "state", r.state }, { "agent", r.agent }, { "rule", ("%s, of the bundle %s"):format(r.rule, r.bundle) },
    { "reason", r.reason }, { "credential", r.credential or "none" }, { "request", ("%s %s"):format(r.method, r.url) } }
  if r.bytes then rows[#rows + 1] = { "body", ("%d bytes%s, SHA-256 %s"):format(r.bytes, r.type and " of " .. r.type or "", r.sha256) } end
  for _, row in ipairs(saw and require("saw").rows(saw) or {}) do rows[#rows + 1] = row end
  rows[#rows + 1] = { "for longer", ("--for hour, day and always cover, for this agent: %s"):format(r.covers) }
  rows[#rows + 1] = { "ends", report.time(r["until"]) }
  ctx.out(terminal.columns(ctx, nil, rows))
  return 0
end

-- Ends the command with what approvals.allow or deny answered.
local function cannot(id, r, code)
  if code == "absent" then named(id) end
  if code == "answered" then report.fail(("'%s' was answered already"):format(id), "sallyport approval deny takes the answer back") end
  if code == "rule_gone" then report.fail(("the rule '%s' is gone"):format(report.clean(r.rule))) end
  db.peek("bundle", r.bundle, ("bundle '%s'"):format(r.bundle))
end

local function settle(id, r, build)
  db.change(function()
    local ops, code = build()
    return ops or cannot(id, r, code)
  end)
end

local function allow(args, opt, ctx)
  local span = opt["for"] or "once"
  if not approvals.is_span(span) then report.usage("--for is once, hour, day or always") end
  db.open(ctx)
  local r = named(args[1]).record
  settle(args[1], r, function() return approvals.allow(args[1], span) end)
  ctx.note(span == "once" and (r.state == "denied" and "Allowed, though it was denied: the next one that is the same goes on."
    or "Allowed: the request that waits goes on, or the next one that is the same.")
    or span == "always" and ("Allowed from now on: %s. sallyport rule show %s lists it."):format(r.covers, r.rule)
    or ("Allowed for the agent %s, for one %s: %s"):format(r.agent, span, r.covers))
  local s = shape(r)
  s.state = span
  report.answer(ctx, s)
  return 0
end

local function deny(args, _, ctx)
  db.open(ctx)
  local r = named(args[1]).record
  settle(args[1], r, function() return approvals.deny(args[1]) end)
  ctx.note(approvals.is_question(r) and "Refused: the same request is refused for 10 minutes without asking." or "Taken back: it is asked about again.")
  local s = shape(r)
  s.state = "denied"
  report.answer(ctx, s)
  return 0
end

return {
  { words = "approval list", args = "[--follow]", min = 0, max = 0, lines = true, summary = "what rules ask a person about",
    options = { { name = "follow", help = "stay, and show questions as they come; Ctrl-C stops" } }, run = list },
  { words = "approval show", args = "QUESTION", min = 1, max = 1, summary = "one question, with what an answer covers", run = show },
  { words = "approval allow", args = "QUESTION [--for once|hour|day|always]", min = 1, max = 1, summary = "lets the request go on", help = [[
Once: the request that waits goes on; or, within 10 minutes, the next one that is the same in method, URL, body and fields. For an
hour or a day: what `approval show` says it covers, for this agent. Always: the same, as an exception of the rule, which
`rule show` lists and `rule set NAME --ask-again` takes away.

examples:
  sallyport approval list --follow
  sallyport approval allow 5f3a09c2
  sallyport approval allow 5f3a09c2 --for hour
]], options = { { name = "for", arg = "SPAN", of = { "once", "hour", "day", "always" }, help = "once, hour, day or always; once unless said" } }, run = allow },
  { words = "approval deny", args = "QUESTION", min = 1, max = 1, summary = "refuses it, and the same for 10 minutes; or takes an answer back", run = deny },
}
