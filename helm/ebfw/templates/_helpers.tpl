{{- define "ebfw.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "ebfw.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "ebfw.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ebfw.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ebfw.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ebfw.labels" -}}
{{ include "ebfw.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "ebfw.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "ebfw.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "ebfw.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Whether policies are read from the cluster: "true" or nothing. */}}
{{- define "ebfw.objects" -}}
{{- if and (eq .Values.policy.source "crd") (ne .Values.mode "off") -}}
true
{{- end -}}
{{- end -}}

{{/* The filter file of the agent. */}}
{{- define "ebfw.filter" -}}
{{- $dns := dict "learnSpecial" .Values.dns.learnSpecial -}}
{{- if .Values.dns.resolvers -}}
{{- $_ := set $dns "resolvers" .Values.dns.resolvers -}}
{{- end -}}
{{- $filter := dict "dns" $dns -}}
{{- if .Values.events.exclude -}}
{{- $_ := set $filter "exclude" .Values.events.exclude -}}
{{- end -}}
{{- toYaml $filter -}}
{{- end -}}
