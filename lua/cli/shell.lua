--- sallyport completion, sallyport man: made from the table of commands, so that neither can be behind it.
local page = require "cli.page"
local report = require "cli.report"

local function quote(text) return "'" .. text:gsub("'", [['\'']]) .. "'" end

-- ---- what may stand where --------------------------------------------------------------------------

-- The placeholder of an argument or of an option's value, and what it stands for: names of the store, of this binary,
-- a file, a folder; nil: nobody can know.
local stands_for = {
  AGENT = "agent", BUNDLE = "bundle", CREDENTIAL = "credential", API = "preset", TYPE = "type", FILE = "file", DIR = "dir",
  TENANT = "tenant", USER = "user", ROLE = "role", GATEWAY = "gateway", CLIENT = "client", CONNECTION = "connection",
  RULETYPE = "ruletype", QUESTION = "approval", PROPOSAL = "proposal", METHOD = "GET HEAD POST PUT PATCH DELETE OPTIONS WEBSOCKET", SOURCE = "file",
}
-- Of these the names are asked of the program (`completion --names`); all else stands in the script.
local asked = { "agent", "approval", "bundle", "client", "connection", "credential", "gateway", "key", "policy", "preset", "proposal", "role", "rule", "ruletype", "setting", "tenant", "token", "type", "user" }
-- NAME is one of the family's own.
local own = { credential = "credential", agent = "agent", bundle = "bundle", policy = "policy", set = "setting", connect = "credential",
  disconnect = "credential", tenant = "tenant", role = "role", gateway = "gateway", key = "key", rule = "rule", token = "token" }
local begins = { add = true, new = true }    -- their NAME is new, and a user's

local function kind_of(word, first, verb)
  if first == "policy" and verb == "help" then      -- of its hundreds of names, the topics
    local topics = {}
    for i, t in ipairs(require("cli.policy_manual").topics()) do topics[i] = t.name end
    return table.concat(topics, " ")
  end
  if begins[verb] and (word == "NAME" or stands_for[word] == first) then return nil end
  if word == "NAME" then return own[first] end
  if word:find("^[%l%d|]+$") then return (word:gsub("|", " ")) end
  local kinds = {}
  for part in word:gmatch("[^|]+") do kinds[#kinds + 1] = part == "NAME" and own[first] or stands_for[part] end
  if kinds[1] == "file" then kinds[1], kinds[2] = kinds[2] or "file", kinds[2] and "file" end
  return table.concat(kinds, "+")
end

-- The kinds of a command's arguments, by position; `all`: those behind the last are like it.
local function positions(c, first, verb)
  local list, n = {}, 0
  for word in (c.args or ""):gsub("%[%-%-[^%]]*%]", ""):gsub("[%[%]]", ""):gmatch("%S+") do
    if word:sub(1, 2) == "--" then break end
    if word == "…" or word:find("…", 1, true) then
      list.all = list[n]
    elseif word ~= "options" then
      if word:find("=", 1, true) then break end
      n = n + 1
      list[n] = kind_of(word, first, verb)
    end
  end
  list.n = n
  return list
end

-- Of an option's value.
local function value_kind(o, first)
  if not o.arg then return nil end
  if o.of then return table.concat(o.of, " ") end
  if o.name == "credential" then return "credential" end
  if o.arg:find("^%l+$") then return o.arg end
  return stands_for[o.arg] or "none"
end

-- { first, several, commands = { key, summary, options, positions } } …, and the kinds of the options' values: "--agent"
-- -> kind, and where two commands differ, "env :--format" -> kind.
local function tree()
  local cli, help = require "cli", require "cli.help"
  local out, values, each = {}, {}, {}
  local topic = { words = "help", args = table.concat(help.topics(), "|"), summary = "the manual", options = {} }
  for _, first in ipairs { "help", table.unpack(cli.first_words()) } do
    local family = { first = first, commands = {}, several = false }
    for i, c in ipairs(first == "help" and { topic } or cli.commands_of(first)) do
      local verb, options = c.words:match(" (.+)$"), {}
      for _, set in ipairs { c.options or {}, cli.global_options } do
        for _, o in ipairs(set) do
          options[#options + 1] = o
          local name, kind = "--" .. o.name, not o.bare and value_kind(o) or nil
          if kind then
            if values[name] and values[name] ~= kind then each[name] = true end
            values[name] = values[name] or kind
            values[first .. " " .. (verb or "") .. ":" .. name] = kind
          end
        end
      end
      family.commands[i] = { verb = verb, key = first .. " " .. (verb or ""), summary = c.summary, options = options,
        positions = positions(c, first, verb), record = c }
      family.several = family.several or verb ~= nil
    end
    out[#out + 1] = family
  end
  for key in pairs(values) do
    local name = key:match(":(.*)$")
    if name and not each[name] then values[key] = nil end
  end
  return out, values
end

-- Options that take a value, in order.
local function taking(values)
  local list = {}
  for key in pairs(values) do list[#list + 1] = key:sub(1, 2) == "--" and key or nil end
  table.sort(list)
  return list
end

-- ---- bash and zsh ----------------------------------------------------------------------------------

-- The branches of the `case` statements that both have.
local function branches(families, values, words_of)
  local b = { several = {}, verbs = {}, options = {}, positions = {}, kinds = {}, firsts = {} }
  local globals = {}
  for i, o in ipairs(require("cli").global_options) do globals[i] = { "--" .. o.name, o.help } end
  b.options[1] = ("      ' ') %s ;;"):format(words_of(globals))
  for _, f in ipairs(families) do
    b.firsts[#b.firsts + 1] = { f.first, f.several and "" or f.commands[1].summary }
    local verbs = {}
    for _, c in ipairs(f.commands) do
      verbs[#verbs + 1] = c.verb and { c.verb, c.summary }
      local options = {}
      for i, o in ipairs(c.options) do options[i] = { "--" .. o.name, o.help } end
      b.options[#b.options + 1] = ("      %s) %s ;;"):format(quote(c.key), words_of(options))
      local p = c.positions
      for i = 1, p.n do
        local pattern = quote(c.key .. ":") .. (p.all and i == p.n and "*" or i - 1)
        if p[i] and p[i] ~= "" then b.positions[#b.positions + 1] = ("      %s) kind=%s ;;"):format(pattern, quote(p[i])) end
      end
    end
    if f.several then
      b.several[#b.several + 1] = f.first
      b.verbs[#b.verbs + 1] = ("      %s) %s ;;"):format(f.first, words_of(verbs))
    end
  end
  for name, kind in pairs(values) do
    b.kinds[#b.kinds + 1] = ("      %s) kind=%s ;;"):format(name:find(":", 1, true) and quote(name) or "*:" .. name, quote(kind))
  end
  table.sort(b.kinds, function(x, y)      -- what one command's own is stands first
    if (x:byte(7) == 42) ~= (y:byte(7) == 42) then return y:byte(7) == 42 end
    return x < y
  end)
  local fill = {}
  for _, k in ipairs { "verbs", "options", "positions", "kinds" } do fill[k:upper()] = table.concat(b[k], "\n") end
  fill.NAMES = table.concat(asked, "|")
  fill.TAKING, fill.SEVERAL, fill.FIRSTS = table.concat(taking(values), "|"), table.concat(b.several, "|"), words_of(b.firsts)
  return fill
end

-- Names are asked of the program as it is called here, an alias with another user and data directory included: so `eval`
-- of a word of ours; what was typed stays a variable.
local BASH = [==[
# bash 4.0 and later, for sallyport: made by `sallyport completion bash`
_sallyport() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev= words= kind= home= first= verb= files= n=0 i w
  [ "$COMP_CWORD" -gt 0 ] && prev=${COMP_WORDS[COMP_CWORD-1]}
  if [ "$cur" = = ]; then
    cur=
  elif [ "$prev" = = ]; then
    prev=${COMP_WORDS[COMP_CWORD-2]}
  fi
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    w=${COMP_WORDS[i]}
    case $w in
      %TAKING%)
        i=$((i + 1))
        [ "${COMP_WORDS[i]}" = = ] && i=$((i + 1))
        [ "$w" = --home ] && home=${COMP_WORDS[i]} ;;
      =) i=$((i + 1)) ;;
      -*) ;;
      *)
        if [ -z "$first" ]; then
          first=$w
        else
          case "$first$verb" in
            %SEVERAL%) verb=$w ;;
            *) n=$((n + 1)) ;;
          esac
        fi ;;
    esac
  done
  case "$first $verb:$prev" in
%KINDS%
  esac
  if [ -n "$kind" ]; then
    :
  elif [ -z "$first" ] && [ "${cur#-}" = "$cur" ]; then
    %FIRSTS%
  elif [ "${cur#-}" = "$cur" ]; then
    [ -n "$verb" ] || case $first in
%VERBS%
    esac
    [ -n "$words" ] || case "$first $verb:$n" in
%POSITIONS%
    esac
  fi
  if [ -z "$kind$words" ] || [ "${cur#-}" != "$cur" ]; then
    case "$first $verb" in
%OPTIONS%
    esac
  fi
  case $kind in
    *+file) files=1 kind=${kind%+file} ;;
  esac
  case $kind in
    ''|none) ;;
    file|dir)
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen "-${kind:0:1}" -- "$cur")
      return ;;
    *' '*) words=$kind ;;
    %NAMES%)
      case $home in
        "~/"*) home=$HOME/${home#??} ;;
      esac
      words=$(eval 'sallyport ${home:+--home "$home"} completion --names "$kind"' 2>/dev/null </dev/null) ;;
    *) words=$kind ;;
  esac
  case $cur in
    @*) mapfile -t COMPREPLY < <(compgen -P @ -f -- "${cur#@}") ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur") ;;
  esac
  [ -n "$kind" ] && [ -z "$files" ] || [ ${#COMPREPLY[@]} -gt 0 ] || mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}
complete -F _sallyport sallyport
]==]

local ZSH = [==[
#compdef sallyport
# zsh, for sallyport: made by `sallyport completion zsh`. A file of this text named _sallyport in a folder of $fpath will do.
_sallyport() {
  local cur=${words[CURRENT]} prev=${words[CURRENT-1]} kind= home= first= verb= files= n=0 i w
  local -a list
  case $cur in
    --*=*) prev=${cur%%=*}; compset -P '*=' ;;
  esac
  for ((i = 2; i < CURRENT; i++)); do
    w=${words[i]}
    case $w in
      --home=*) home=${(Q)w#*=} ;;
      %TAKING%)
        i=$((i + 1))
        [[ $w != --home ]] || home=${(Q)words[i]} ;;
      -*) ;;
      *)
        if [[ -z $first ]]; then
          first=$w
        else
          case $first$verb in
            %SEVERAL%) verb=$w ;;
            *) n=$((n + 1)) ;;
          esac
        fi ;;
    esac
  done
  case "$first $verb:$prev" in
%KINDS%
  esac
  if [[ -n $kind ]]; then
    :
  elif [[ -z $first && $cur != -* ]]; then
    %FIRSTS%
  elif [[ $cur != -* ]]; then
    [[ -n $verb ]] || case $first in
%VERBS%
    esac
    (( $#list )) || case "$first $verb:$n" in
%POSITIONS%
    esac
  fi
  if [[ -z $kind && $#list -eq 0 || $cur == -* && $cur != --*=* ]]; then
    case "$first $verb" in
%OPTIONS%
    esac
  fi
  if [[ $kind == *+file ]]; then
    files=1
    kind=${kind%+file}
  fi
  case $kind in
    none) return 1 ;;
    file) _files; return ;;
    dir) _files -/; return ;;
    %NAMES%)
      home=${home/#\~\//$HOME/}
      list=(${(f)"$(eval "${aliases[sallyport]:-sallyport} "'${home:+--home} ${home:+"$home"} completion --names "$kind"' 2>/dev/null </dev/null)"})
      compadd -a list || [[ -n $files ]] && _files
      return ;;
    ?*)
      list=(${=kind})
      compadd -a list
      return ;;
  esac
  case $cur in
    *=@*) compset -P '*=@'; _files; return ;;
  esac
  (( $#list )) && _describe sallyport list || _files
}
if [[ ${funcstack[1]} == _sallyport ]]; then
  _sallyport "$@"
else
  compdef _sallyport sallyport
fi
]==]

local function bash()
  local families, values = tree()
  return (BASH:gsub("%%(%u+)%%", branches(families, values, function(list)
    local names = {}
    for i, item in ipairs(list) do names[i] = item[1] end
    return "words=" .. quote(table.concat(names, " "))
  end)))
end

local function zsh()
  local families, values = tree()
  return (ZSH:gsub("%%(%u+)%%", branches(families, values, function(list)
    local items = {}
    for i, item in ipairs(list) do items[i] = quote(item[1] .. (item[2] ~= "" and ":" .. item[2] or "")) end
    return "list=(" .. table.concat(items, " ") .. ")"
  end)))
end

-- ---- fish ------------------------------------------------------------------------------------------

local FISH = [==[
# fish 3.0 and later, for sallyport: made by `sallyport completion fish`
function __sallyport_at -a where
    set -l first
    set -l verb
    set -l n 0
    set -l skip 0
    for w in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
        else
            switch $w
                case %TAKING%
                    set skip 1
                case '-*'
                case '*'
                    if test -z "$first"
                        set first $w
                    else if test -z "$verb"; and contains -- $first %SEVERAL%
                        set verb $w
                    else
                        set n (math $n + 1)
                    end
            end
        end
    end
    string match -q -- $where "$first $verb:$n"
end
function __sallyport_names -a kind
    set -l home
    set -l tokens (commandline -opc)
    if set -l i (contains -i -- --home $tokens)
        set home --home (string replace -r '^~/' "$HOME/" -- $tokens[(math $i + 1)])
    end
    type -q sallyport; and sallyport $home completion --names $kind 2>/dev/null </dev/null
end
complete -c sallyport -f
]==]

local NAMES = {}
for _, kind in ipairs(asked) do NAMES[kind] = true end

-- What `complete` offers for a kind.
local fish_values
function fish_values(kind)
  if kind == "file" or kind == "dir" then return "-F" end
  if kind == "none" or not kind then return "" end
  local alone = kind:match("^(.*)%+file$")
  if alone then return "-F " .. fish_values(alone) end
  return "-a " .. quote(NAMES[kind] and ("(__sallyport_names %s)"):format(kind) or kind)
end

local function fish()
  local families, values = tree()
  local several, out = {}, {}
  local function offer(where, rest)
    out[#out + 1] = ("complete -c sallyport -n %s %s"):format(quote("__sallyport_at " .. quote(where)), rest)
  end
  local function option(where, o)
    local kind = not o.bare and (values[where:gsub("%*$", "--" .. o.name)] or values["--" .. o.name])
    offer(where, ("-l %s %s-d %s"):format(o.name, kind and ("%s %s "):format(fish_values(kind):find("-F", 1, true) and "-r" or "-x", fish_values(kind)) or "", quote(o.help)))
  end
  for _, o in ipairs(require("cli").global_options) do option(" :0", o) end
  for _, f in ipairs(families) do
    several[#several + 1] = f.several and f.first or nil
    offer(" :0", ("-a %s -d %s"):format(f.first, quote(f.several and "" or f.commands[1].summary)))
    for _, c in ipairs(f.commands) do
      if c.verb then offer(f.first .. " :0", ("-a %s -d %s"):format(c.verb, quote(c.summary))) end
      local p = c.positions
      for i = 1, p.n do
        if p[i] and p[i] ~= "" then offer(c.key .. ":" .. (p.all and i == p.n and "*" or i - 1), fish_values(p[i])) end
      end
      for _, o in ipairs(c.options) do option(c.key .. ":*", o) end
    end
  end
  local fill = { TAKING = table.concat(taking(values), " "), SEVERAL = table.concat(several, " ") }
  return FISH:gsub("%%(%u+)%%", fill) .. table.concat(out, "\n") .. "\n"
end

-- ---- names -----------------------------------------------------------------------------------------

local function settings_of()
  local list = {}
  for i, s in ipairs(require("records").setting_list) do list[i] = s.name end
  return list
end

local function agents_of(db)
  local list = {}
  for key, a in db.each("agent", "a/") do
    if not (a and a.revoked) then list[#list + 1] = key:sub(3) end
  end
  return list
end

-- Policies of the binary and of the store, those of one kind alone where it is named.
local function policies_of(kind)
  local list, versions = {}, require "cli.policy_versions"
  if not kind then return versions.names() end
  for _, p in ipairs(versions.list()) do
    if p.kind == kind then list[#list + 1] = p.name end
  end
  return list
end

local function presets_of()
  local list = {}
  for i, p in ipairs((require("presets").load() or { presets = {} }).presets) do list[i] = p.name end
  return list
end

-- Users, roles, keys and the like: the names that their listing shows.
local function door(db, prefix, member)
  return function(store)
    local list = {}
    for key, r in store.each(db, prefix) do list[#list + 1] = r and (member and r[member] or key:sub(#prefix + 1)) end
    return list
  end
end

local kinds = {
  user = door("user", "u/"), role = door("user", "r/"), gateway = door("gateway", ""), client = door("client", "c/"), key = door("grant", "k/", "name"),
  connection = door("grant", "g/"),
  tenant = function(db)
    local list = {}
    for _, a in db.each("agent", "a/") do list[#list + 1] = a and a.kind == "tenant" and a.name or nil end
    return list
  end,
  setting = settings_of,
  preset = presets_of,
  agent = agents_of,
  credential = function(db) return db.names("credential", "") end,
  bundle = function(db) return db.names("bundle", "") end,
  token = function(db) return db.names("meta", "api-token/") end,
  policy = function() return policies_of() end,
  type = function() return policies_of("type") end,
  approval = function(db)
    local list = {}
    for _, r in db.each("approval", "") do list[#list + 1] = r and r.boot and r.question or nil end
    return list
  end,
  proposal = function(db)
    local list = {}
    for _, r in db.each("proposal", "") do list[#list + 1] = r and r.proposal or nil end
    return list
  end,
  ruletype = function() return policies_of("rule") end,
  rule = function(db)
    local list = {}
    for key, b in db.each("bundle", "") do
      for _, r in ipairs(b and not key:find("/", 1, true) and b.rules or {}) do list[#list + 1] = r.name end
    end
    return list
  end,
}

-- `completion --names KIND`, for the scripts: names, a line each, or nothing, whatever may be wrong.
local function names(kind, ctx)
  local db, records = require "cli.db", require "records"
  local ok, list = pcall(function()
    if ctx.home then require("store").open(ctx.home, {}) end
    return kinds[kind](db)
  end)
  for _, name in ipairs(ok and list or {}) do
    if records.name(name) or require("web.access").user_name(name) then ctx.out(name .. "\n") end
  end
  return 0
end

local function completion(args, opt, ctx)
  if opt.names then return names(opt.names, ctx) end
  local make = ({ bash = bash, fish = fish, zsh = zsh })[args[1]]
  if not make then report.usage("a shell is bash, zsh or fish", "sallyport completion --help shows where each looks") end
  ctx.out(make())
  return 0
end

-- ---- the manual page -----------------------------------------------------------------------------

-- Text for man(7): a dash that is typed, a backslash, other letters by number, and no line that begins with a request.
local function roff(text)
  text = text:gsub("\\", "\\e"):gsub("%-", "\\-")
  text = text:gsub(utf8.charpattern, function(c) return #c > 1 and ("\\[u%04X]"):format(utf8.codepoint(c)) or nil end)
  return (("\n" .. text):gsub("\n([.'])", "\n\\&%1"):sub(2))
end

local function man_of(c)
  local out = { (".SS sallyport %s%s"):format(roff(c.words), c.args and " " .. roff(c.args) or "") }
  local help = type(c.help) == "function" and c.help() or c.help or c.summary .. "\n"
  out[#out + 1] = ".nf\n" .. roff(page.text(help)) .. ".fi"
  for _, o in ipairs(c.options or {}) do
    local value = o.bare and "[=" .. o.arg .. "]" or o.arg and " " .. o.arg or ""
    out[#out + 1] = (".TP\n.B %s\n%s"):format(roff("--" .. o.name .. value), roff(o.help))
  end
  return table.concat(out, "\n")
end

local function man(_, _, ctx)
  local out = { (".TH SALLYPORT 1 %q %q"):format(os.date("!%Y-%m-%d", ctx.host.build_time), "sallyport " .. ctx.host.version) }
  out[#out + 1] = [[
.SH NAME
sallyport \- an egress proxy that attaches the credentials agents never hold
.SH SYNOPSIS
.B sallyport
[\-\-home DIR] [\-\-json] COMMAND \&...
.SH DESCRIPTION
An agent in a sandbox reaches the network through this program alone. It decides which request may carry which
credential, attaches it, and sends the request on.
.SH COMMANDS]]
  local cli = require "cli"
  for _, first in ipairs(cli.first_words()) do
    for _, c in ipairs(cli.commands_of(first)) do out[#out + 1] = man_of(c) end
  end
  out[#out + 1] = [[
.SH ENVIRONMENT
.TP
.B SALLYPORT_HOME
the data directory, where \-\-home does not name one; else ~/.sallyport
.TP
.B NO_COLOR
set to anything: no colours at a terminal; so does TERM=dumb
.TP
.B COLUMNS
the terminal's width, where that is not what the terminal says itself
.SH EXIT STATUS
0: done. 1: it failed, and standard error says why and what to do. 2: the command line is wrong.]]
  ctx.out(table.concat(out, "\n") .. "\n")
  return 0
end

return {
  { words = "completion", args = "bash|zsh|fish", max = 1, homeless = true, summary = "what the TAB key offers, for your shell",
    hidden = { { name = "names", arg = "KIND" } },     -- for the scripts
    help = [[
Prints a script that completes commands, options, files, and the names of your credentials, agents, bundles, policies
and settings, and of the presets.

examples:
  sallyport completion bash > ~/.local/share/bash-completion/completions/sallyport
  sallyport completion zsh > ~/.zsh/completions/_sallyport
  sallyport completion fish > ~/.config/fish/completions/sallyport.fish
]], run = completion },
  { words = "man", max = 0, homeless = true, summary = "the manual page",
    help = [[
Prints the manual page, for man(1).

examples:
  sallyport man | man -l -
  sallyport man > /usr/local/share/man/man1/sallyport.1
]], run = man },
}
