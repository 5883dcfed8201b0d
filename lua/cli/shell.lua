--- sallyport completion, sallyport man: made from the table of commands, so that neither can be behind it.
local page = require "cli.page"
local report = require "cli.report"

local function quote(text) return "'" .. text:gsub("'", [['\'']]) .. "'" end

local function option_words(c, globals)
  local list = {}
  for _, set in ipairs { c.options or {}, globals } do
    for _, o in ipairs(set) do list[#list + 1] = o end
  end
  return list
end

-- What may follow: words -> { verbs } or { options }. Families in the order of the overview.
local function tree()
  local cli = require "cli"
  local out = {}
  for _, first in ipairs(cli.first_words()) do
    local family = { first = first, commands = cli.commands_of(first) }
    out[#out + 1] = family
    for _, c in ipairs(family.commands) do
      c.verb = c.words:match(" (.+)$")
      c.all = option_words(c, cli.global_options)
    end
    family.single = #family.commands == 1 and not family.commands[1].verb and family.commands[1] or nil
  end
  return out
end

local function dashed(options)
  local list = {}
  for i, o in ipairs(options) do list[i] = "--" .. o.name end
  return table.concat(list, " ")
end

-- One function for bash (4.0 and later) and, through bashcompinit, zsh. A value of an option is a file's name.
local function bash(families, zsh)
  local firsts, verbs, singles, doubles, values = {}, {}, {}, {}, {}
  local function case(list, words, c)
    list[#list + 1] = ("      %s) words=%s ;;"):format(quote(words), quote(dashed(c.all)))
    for _, o in ipairs(c.all) do
      if o.arg and not o.bare then values["--" .. o.name] = true end
    end
  end
  for _, f in ipairs(families) do
    firsts[#firsts + 1] = f.first
    if f.single then
      case(singles, f.first, f.single)
    else
      local list = {}
      for i, c in ipairs(f.commands) do
        list[i] = c.verb
        case(doubles, f.first .. " " .. c.verb, c)
      end
      verbs[#verbs + 1] = ("      %s) words=%s ;;"):format(f.first, quote(table.concat(list, " ")))
    end
  end
  local taking = {}
  for name in pairs(values) do taking[#taking + 1] = name end
  table.sort(taking)
  return (zsh and "#compdef sallyport\nautoload -U +X bashcompinit && bashcompinit\n" or "") .. ([[
_sallyport() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev= words= first= verb= i w
  [ "$COMP_CWORD" -gt 0 ] && prev=${COMP_WORDS[COMP_CWORD-1]}
  COMPREPLY=()
  case $prev in
    %s) COMPREPLY=($(compgen -f -- "$cur")); return ;;
  esac
  for ((i = 1; i < COMP_CWORD; i++)); do
    w=${COMP_WORDS[i]}
    case $w in
      --home) i=$((i + 1)) ;;
      -*) ;;
      *) if [ -z "$first" ]; then first=$w; elif [ -z "$verb" ]; then verb=$w; fi ;;
    esac
  done
  if [ -z "$first" ]; then
    words=%s
  elif [ -z "$verb" ]; then
    case $first in
%s
    esac
  fi
  if [ -z "$words" ] || [ "${cur#-}" != "$cur" ]; then
    case "$first $verb" in
%s
    esac
    case $first in
%s
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- "$cur"))
}
complete -F _sallyport sallyport
]]):format(table.concat(taking, "|"), quote(table.concat(firsts, " ")), table.concat(verbs, "\n"),
    table.concat(doubles, "\n"), table.concat(singles, "\n"))
end

local function fish(families)
  local out, firsts = { "complete -c sallyport -f" }, {}
  for _, f in ipairs(families) do firsts[#firsts + 1] = f.first end
  local function options_of(c, condition)
    for _, o in ipairs(c.all) do
      out[#out + 1] = ("complete -c sallyport -n %s -l %s %s-d %s"):format(quote(condition), o.name,
        o.arg and not o.bare and "-r -F " or "", quote(o.help))
    end
  end
  for _, f in ipairs(families) do
    local summary = f.single and f.single.summary or ""
    out[#out + 1] = ("complete -c sallyport -n %s -a %s -d %s"):format(
      quote("not __fish_seen_subcommand_from " .. table.concat(firsts, " ")), f.first, quote(summary))
    local seen = "__fish_seen_subcommand_from " .. f.first
    if f.single then
      options_of(f.single, seen)
    else
      local verbs = {}
      for i, c in ipairs(f.commands) do verbs[i] = c.verb end
      for _, c in ipairs(f.commands) do
        out[#out + 1] = ("complete -c sallyport -n %s -a %s -d %s"):format(
          quote(seen .. "; and not __fish_seen_subcommand_from " .. table.concat(verbs, " ")), c.verb, quote(c.summary))
        options_of(c, seen .. "; and __fish_seen_subcommand_from " .. c.verb)
      end
    end
  end
  return table.concat(out, "\n") .. "\n"
end

local function completion(args, _, ctx)
  local shell = args[1]
  local make = ({ bash = bash, fish = fish, zsh = function(t) return bash(t, true) end })[shell]
  if not make then report.usage("a shell is bash, zsh or fish", "sallyport completion --help shows where each looks") end
  ctx.out(make(tree()))
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
  for _, f in ipairs(tree()) do
    for _, c in ipairs(f.commands) do out[#out + 1] = man_of(c) end
  end
  out[#out + 1] = [[
.SH ENVIRONMENT
.TP
.B SALLYPORT_HOME
the data directory, where \-\-home does not name one; else ~/.sallyport
.SH EXIT STATUS
0: done. 1: it failed, and standard error says why and what to do. 2: the command line is wrong.]]
  ctx.out(table.concat(out, "\n") .. "\n")
  return 0
end

return {
  { words = "completion", args = "bash|zsh|fish", min = 1, max = 1, homeless = true, summary = "what the TAB key offers, for your shell",
    help = [[
Prints a script that completes commands and options.

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
