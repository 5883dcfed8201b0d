--- Which branches and tags of a Git server may be pushed to.
--
--   sallyport rule add pushes --type git_branches --host github.com refs=agent/*
--   sallyport rule add pushes --type git_branches --host github.com --path /acme/site.git protected=main,release/* moves=ask
--   sallyport rule add pushes --type git_branches --host git.example.org refs=agent/*,refs/tags/* creates=allow moves=deny deletes=deny
--
-- A push names all that it changes in front of its pack: each ref, and whether it is made, moved or deleted. Every one of them has to
-- be allowed, or nothing of the push goes through, and `git push` shows which rule refused it. A name without refs/ is a branch. `refs`
-- are those that may be pushed to; `protected` are those that may not be, in whatever case (protection=ask: a person is asked);
-- creates, moves and deletes say what may be done to the others. Whether a move is a fast-forward or rewrites history is not in the
-- commands: moves=ask or moves=deny where that matters, or the server's own protection of branches. Push options may have a server
-- merge (GitLab's merge_request.*): such are refused unless options= says another list. Signed pushes, and pushes with a
-- Content-Encoding, cannot be read, and are refused; so are the methods of WebDAV, with which very old clients push. What a forge's
-- API does to branches (merging, editing a file) is no push: keep the credential to the paths of its repositories, or to methods.
--
-- To ask a person, the pack has to be read whole: one over body-max is refused (413).
local function full(pattern)
  return pattern:find("^refs/") and pattern or pattern == "*" and "*" or "refs/heads/" .. pattern
end

local function any(patterns, ref, fold)
  if not patterns then return false end
  local list = {}
  for i, p in ipairs(patterns) do list[i] = fold and full(p):lower() or full(p) end
  return fits(list, fold and ref:lower() or ref)
end

-- Names that no Git takes (git check-ref-format), and that another server might read as another path.
local function odd(ref) return ref:find("..", 1, true) or ref:find("//", 1, true) or ref:find("/./", 1, true) or ref:find("[\\%c]") or ref:find("/$") end

-- A ref's name in a reason, which is at most 500 bytes of UTF-8; a name may be longer, and in another coding.
local function shown(ref)
  local text = utf8.len(ref) and ref or ref:gsub("[\128-\255]", "?")
  return #text > 200 and text:sub(1, 200):gsub("[\192-\255][\128-\191]*$", "") .. "..." or text
end

local words = { create = "creates", move = "moves", delete = "deletes" }

-- Does the path lie within a repository, for a client that writes it file by file?
local function in_repository(readings)
  for _, path in ipairs(readings or { "/.git/" }) do
    if path:lower():find("%.git/") then return true end
  end
  return false
end

return {
  kind = "rule", api = 1, name = "git_branches", title = "Which branches and tags may be pushed to", reader = "pkt-line",
  fields = {
    { name = "refs", type = "list", default = { "*" }, help = "Branches and refs that may be pushed to: agent/*, refs/tags/*" },
    { name = "protected", type = "list", help = "Of these, those that may not be" },
    { name = "protection", type = "enum", values = { "deny", "ask" }, default = "deny", help = "What a push to a protected one gets" },
    { name = "creates", type = "enum", values = { "allow", "ask", "deny" }, default = "allow", help = "New branches and tags" },
    { name = "moves", type = "enum", values = { "allow", "ask", "deny" }, default = "allow", help = "Be it a fast-forward or not" },
    { name = "deletes", type = "enum", values = { "allow", "ask", "deny" }, default = "deny", help = "Branches and tags that would go" },
    { name = "options", type = "list", default = { "merge_request.*" }, help = "Push options that are refused" },
  },
  on_request = function(req, ctx)
    local rule = ctx.rule
    local push, why = req.push()
    if why then return deny(why) end
    if not push then
      local method = req.method
      if method ~= "GET" and method ~= "HEAD" and method ~= "POST" and method ~= "OPTIONS" and in_repository(req.readings()) then
        return deny("a repository is written to by git push alone")
      end
      return nil
    end
    for _, option in ipairs(push.options) do
      if fits(rule.options, option:lower()) then return deny("this push option is not allowed here") end
    end
    local wants
    for _, c in ipairs(push.commands) do
      if odd(c.ref) or not any(rule.refs, c.ref) then return deny(("%s may not be pushed to"):format(shown(c.ref))) end
      local what = any(rule.protected, c.ref, true) and rule.protection or rule[words[c.kind]]
      local text = what ~= "allow" and ("%s %s"):format(c.kind, shown(c.ref))
      if what == "deny" then return deny(("this push may not %s"):format(text)) end
      if what == "ask" then wants = wants and wants .. ", " .. text or text end
    end
    if not wants then return nil end
    if #wants > 300 then wants = wants:sub(1, 280):gsub("[\192-\255][\128-\191]*$", "") .. " and more" end
    return ask("this push would " .. wants)
  end,
  examples = {
    { rule = { refs = { "agent/*" } }, req = { method = "GET", url = "https://git.example.com/a.git/info/refs?service=git-receive-pack" } },
    { rule = { refs = { "agent/*" } }, req = { method = "POST", url = "https://git.example.com/a.git/git-upload-pack", body = "0000" } },
    { rule = { refs = { "agent/*" } }, req = { method = "POST", url = "https://git.example.com/a.git/git-receive-pack", body = "0000" } },
    { rule = { refs = { "agent/*" } }, req = { method = "POST", url = "https://git.example.com/a.git/git-receive-pack",
      body = "0077" .. ("0"):rep(40) .. " " .. ("1"):rep(40) .. " refs/heads/agent/x\0 report-status0000PACK" } },
    { rule = { refs = { "agent/*" } }, req = { method = "POST", url = "https://git.example.com/a.git/git-receive-pack",
      body = "0074" .. ("0"):rep(40) .. " " .. ("1"):rep(40) .. " refs/heads/main\0 report-status0000PACK" }, want = "refs/heads/main may not be pushed to" },
    { rule = { refs = { "agent/*" } }, req = { method = "POST", url = "https://git.example.com/a.git/git-receive-pack",
      body = "0077" .. ("2"):rep(40) .. " " .. ("1"):rep(40) .. " refs/heads/agent/x\0 report-status0065" .. ("2"):rep(40) .. " " .. ("1"):rep(40)
        .. " refs/heads/main0000PACK" }, want = "refs/heads/main may not be pushed to" },
    { rule = { protected = { "main" } }, req = { method = "POST", url = "https://git.example.com/a.git/git-receive-pack",
      body = "0065" .. ("2"):rep(40) .. " " .. ("1"):rep(40) .. " refs/heads/main0000" }, want = "this push may not move refs/heads/main" },
    { rule = { protected = { "main" } }, req = { method = "POST", url = "https://git.example.com/a.git/git-receive-pack",
      body = "0065" .. ("2"):rep(40) .. " " .. ("1"):rep(40) .. " refs/heads/Main0000" }, want = "this push may not move refs/heads/Main" },
    { rule = { refs = { "agent/*" } }, req = { method = "POST", url = "https://git.example.com/a.git/git-receive-pack",
      body = "006e" .. ("2"):rep(40) .. " " .. ("1"):rep(40) .. " refs/heads/agent/../main0000" }, want = "refs/heads/agent/../main may not be pushed to" },
    { rule = { moves = "ask" }, req = { method = "POST", url = "https://git.example.com/a.git/git-receive-pack",
      body = "0065" .. ("2"):rep(40) .. " " .. ("1"):rep(40) .. " refs/heads/main0000" },
      want = "a person is asked: this push would move refs/heads/main" },
    { req = { method = "POST", url = "https://git.example.com/a.git/git-receive-pack",
      body = "0065" .. ("2"):rep(40) .. " " .. ("0"):rep(40) .. " refs/heads/main0000" }, want = "this push may not delete refs/heads/main" },
    { rule = { refs = { "agent/*" } }, req = { method = "POST", url = "https://git.example.com/a.git/git-receive-pack",
      body = "0318" .. ("0"):rep(40) .. " " .. ("1"):rep(40) .. " refs/heads/\xff" .. ("ä"):rep(347) .. "0000" },
      want = "refs/heads/" .. ("?"):rep(189) .. "... may not be pushed to" },
    { rule = { moves = "ask" }, req = { method = "POST", url = "https://git.example.com/a.git/git-receive-pack",
      body = "0193" .. ("2"):rep(40) .. " " .. ("1"):rep(40) .. " refs/heads/x" .. ("ä"):rep(152) .. "\n0000" },
      want = "a person is asked: this push would move refs/heads/x" .. ("ä"):rep(93) .. "..." },
    { req = { method = "POST", url = "https://git.example.com/a.git/git-receive-pack", body = "0009hello0000" }, want = "the commands of this push cannot be read" },
    { req = { method = "POST", url = "https://git.example.com/a.git/git-receive-pack", headers = { ["content-encoding"] = "gzip" }, body = "0000" }, want = true },
    { req = { method = "PUT", url = "https://git.example.com/a.git/refs/heads/main", body = "x" }, want = "a repository is written to by git push alone" },
  },
}
